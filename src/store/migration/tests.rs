//! Migrations that are interrupted at every write, and databases that are not what they say.

use super::*;
use crate::store::{Fault, Faults, MemoryEngine};

/// Heads, tails and blocklists of many queues in format 2, and outboxes of both versions.
fn old() -> MemoryEngine {
    let engine = MemoryEngine::new();
    let row = |table, key, value| Operation { table, key, change: Change::Put(Vec::into(value)) };
    let mut rows = vec![put(FORMAT_KEY, 2u32.to_be_bytes().to_vec())];
    for number in 0..5_000_u32 {
        let queue = |part| Key::new().u8(2).bytes([7; 12]).u32(number).u8(part);
        rows.push(row(Table::Queues, queue(0), record::encode(1, &([9u8; 16], number)).unwrap()));
        rows.push(row(Table::Queues, queue(1), record::encode(1, &(number, 5u8)).unwrap()));
    }
    for (version, number) in [(1u8, 1u8), (2, 2)] {
        let first = ("a.test".to_owned(), 7u64, 9u64, 300u64, 200u64, 2u64);
        let row1 = record::encode(1, &first).unwrap();
        let row2 = record::encode(2, &(first, 5u64)).unwrap();
        rows.push(row(Table::FedHeads, Key::new().u8(number), if version == 1 { row1 } else { row2 }));
    }
    engine.write(&rows).unwrap();
    engine
}

fn all(engine: &dyn Engine) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let rows = |table: &Table| {
        let Read::Ready(Some(page)) = engine.scan(*table, KeyRange::from(Key::new()..), Limit::rows(100_000)) else {
            panic!("memory waits for nobody");
        };
        let rows = page.unwrap().into_rows().into_iter();
        rows.map(|row| (*table, row.key.as_bytes().to_vec(), row.value.to_vec())).collect::<Vec<_>>()
    };
    Table::ALL.iter().flat_map(rows).collect()
}

#[test]
fn rows_of_format_2_become_what_they_are_now() {
    let engine = old();
    run(&engine, 2).unwrap();
    let read = |table, key: Key| engine.get_now(table, key.as_bytes()).unwrap();
    let queue = |part| read(Table::Queues, Key::new().u8(2).bytes([7; 12]).u32(4_321).u8(part)).unwrap();
    let none: Vec<u8> = Vec::new();
    assert_eq!(record::decode(2, &queue(0)), Ok(([9u8; 16], 4_321_u32, none.clone())));
    assert_eq!(record::decode(1, &queue(1)), Ok((4_321_u32, 5u8)));
    for number in [1, 2] {
        let head = read(Table::FedHeads, Key::new().u8(number)).unwrap();
        let expected = ("a.test".to_owned(), 7u64, 9u64, 300u64, 200u64, 2u64, 5u64, none.clone());
        assert_eq!(record::decode(3, &head), Ok(expected));
    }
    assert_eq!(read(Table::Meta, Key::new().bytes(FORMAT_KEY)).unwrap()[..], FORMAT.to_be_bytes());
    assert_eq!(read(Table::Meta, Key::new().bytes(CURSOR_KEY)), None);
}

#[test]
fn a_migration_that_is_interrupted_at_any_write_goes_on_to_the_same_end() {
    let whole = old();
    run(&whole, 2).unwrap();
    let expected = all(&whole);
    let mut writes = 0;
    loop {
        let mut done = true;
        for fault in [Fault::Before, Fault::After] {
            let (faults, engine) = (Faults::new(), old());
            let engine = faults.around(engine);
            faults.fail_write(writes, fault);
            if run(&engine, 2).is_err() {
                done = false;
                // As after a new start, until it is through; every other attempt fails once more.
                for attempt in 0.. {
                    let format = engine.get_now(Table::Meta, FORMAT_KEY).unwrap().unwrap();
                    let format = u32::from_be_bytes(format[..].try_into().unwrap());
                    if attempt % 2 == 0 {
                        faults.fail_write(1, fault);
                    }
                    if run(&engine, format).is_ok() {
                        break;
                    }
                }
            }
            assert_eq!(all(&engine), expected, "interrupted at write {writes}, {fault:?}");
        }
        writes += 1;
        if done {
            break;
        }
    }
    assert!(writes > 5, "it took only {writes} writes");
}

#[test]
fn a_row_that_is_not_of_its_format_ends_a_migration_and_changes_nothing_further() {
    let engine = old();
    let key = Key::new().u8(2).bytes([7; 12]).u32(4_000).u8(0);
    let bad = Operation { table: Table::Queues, key, change: Change::Put(vec![77, 1, 2].into()) };
    engine.write(&[bad]).unwrap();
    let error = run(&engine, 2).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the database is damaged: a row of table queues of format 2: a record has version 77, expected 1"
    );
    assert_eq!(engine.get_now(Table::Meta, FORMAT_KEY).unwrap().unwrap()[..], 2u32.to_be_bytes());
}

#[test]
fn cursors_round_trip_and_those_of_another_format_begin_anew() {
    for last in [None, Some(vec![1, 2, 3])] {
        let cursor = Cursor { from: 2, rewrite: 1, last };
        assert_eq!(Cursor::decode(Some(&cursor.encode()), 2), cursor);
        assert_eq!(Cursor::decode(Some(&cursor.encode()), 3), Cursor { from: 3, rewrite: 0, last: None });
    }
    assert_eq!(Cursor::decode(Some(&[0, 0]), 2), Cursor { from: 2, rewrite: 0, last: None });
}
