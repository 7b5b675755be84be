//! The order in which the hosts of a service are tried (RFC 2782): by priority, and among equals by a draw in which a host
//! is as likely to be first as its weight says.

use rand_core::RngCore;

/// A host of a service, or what is known of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service<T> {
    /// Lowest first.
    pub(super) priority: u16,
    /// Among those of one priority.
    pub(super) weight: u16,
    /// Where it is.
    pub(super) at: T,
}

/// Puts services in the order in which they are tried.
pub(super) fn order<T>(mut left: Vec<Service<T>>, rng: &mut dyn RngCore) -> Vec<Service<T>> {
    // Those without weight stand first, and have a small chance to be drawn.
    left.sort_by_key(|service| (service.priority, service.weight != 0));
    let mut ordered = Vec::with_capacity(left.len());
    while let Some(first) = left.first() {
        let priority = first.priority;
        let weights =
            || left.iter().take_while(|service| service.priority == priority).map(|service| u64::from(service.weight));
        let drawn = rng.next_u64() % (weights().sum::<u64>() + 1);
        let sums = weights().scan(0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        // The last sum is that of all, which is not less than what was drawn.
        let at = sums.take_while(|sum| *sum < drawn).count();
        ordered.push(left.remove(at));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    use super::*;

    const SEED: u64 = 2782;

    fn services(of: &[(u16, u16, usize)]) -> Vec<Service<usize>> {
        of.iter().map(|(priority, weight, at)| Service { priority: *priority, weight: *weight, at: *at }).collect()
    }

    #[test]
    fn the_lowest_priority_goes_first_whatever_the_weights() {
        println!("seed {SEED}");
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        for _ in 0..100 {
            let ordered = order(services(&[(20, 65_535, 2), (10, 0, 1), (0, 1, 0), (30, 9, 3)]), &mut rng);
            assert_eq!(ordered.iter().map(|service| service.at).collect::<Vec<_>>(), [0, 1, 2, 3]);
        }
    }

    #[test]
    fn among_equals_a_host_is_first_as_often_as_its_weight_says() {
        println!("seed {SEED}");
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let mut first = [0u32; 4];
        for _ in 0..10_000 {
            let ordered = order(services(&[(1, 100, 0), (1, 300, 1), (1, 600, 2), (1, 0, 3)]), &mut rng);
            assert_eq!(ordered.len(), 4);
            first[ordered[0].at] += 1;
        }
        for (at, expected) in [1_000u32, 3_000, 6_000].into_iter().enumerate() {
            assert!(first[at].abs_diff(expected) < 300, "{first:?}");
        }
        assert!((1..100).contains(&first[3]), "without weight: seldom, but not never: {first:?}");
    }

    #[test]
    fn without_weights_the_order_of_the_answer_stays() {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let ordered = order(services(&[(1, 0, 0), (1, 0, 1), (1, 0, 2)]), &mut rng);
        assert_eq!(ordered.iter().map(|service| service.at).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
