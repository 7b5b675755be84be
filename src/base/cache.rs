//! A bounded cache: two generations, so that what was used lately stays and no list has to be kept in order.

use std::{collections::HashMap, hash::Hash, mem};

/// Keeps the values used last, at least `capacity` and at most twice as many.
pub struct Cache<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    capacity: usize,
}

impl<K: Hash + Eq, V> Cache<K, V> {
    /// An empty cache of this capacity (at least one).
    pub fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), capacity: capacity.max(1) }
    }

    /// The value of a key, which counts as a use.
    pub fn get(&mut self, key: &K) -> Option<&mut V>
    where
        K: Clone,
    {
        if let Some(value) = self.old.remove(key) {
            self.insert(key.clone(), value);
        }
        self.young.get_mut(key)
    }

    /// Puts a value in, and lets the least recently used ones go if there are too many.
    pub fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.capacity && !self.young.contains_key(&key) {
            self.old = mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }

    /// Takes out all values but those that `keep` holds for.
    pub fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        self.young.retain(|_, value| keep(value));
        self.old.retain(|_, value| keep(value));
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_bound_holds() {
        let mut cache = Cache::new(10);
        cache.insert(0, 0);
        for n in 1..1_000 {
            cache.insert(n, n);
            assert_eq!(cache.get(&0), Some(&mut 0));
            assert!(cache.len() <= 20);
        }
        assert_eq!(cache.get(&5), None);
        cache.remove(&0);
        assert_eq!(cache.get(&0), None);
        cache.retain(|value| value % 2 == 0);
        assert_eq!(cache.get(&999), None);
        assert_eq!(cache.get(&998), Some(&mut 998));
    }
}
