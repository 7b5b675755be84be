//! What a store promises on every engine: atomicity, preconditions, order, visibility, durability, and that a failed
//! write is never taken for a success.

use std::sync::atomic::Ordering;

use super::{super::*, Fixture, for_every_engine, get, key, numbers, open, open_with, put};

for_every_engine!(
    a_submitted_batch_is_pending_until_it_is_durable,
    a_batch_that_conflicts_leaves_nothing,
    preconditions_count_what_was_submitted_before,
    operations_of_a_batch_act_in_their_order,
    batches_act_in_the_order_of_submission,
    a_newer_pending_row_outlives_the_commit_of_an_older_one,
    a_row_that_exists_is_never_missed_while_it_becomes_durable,
    deletes_and_range_deletes_hide_rows_at_once,
    scans_stop_at_their_limit,
    empty_and_inverted_ranges_hold_nothing,
    waiting_batches_share_a_write,
    acknowledged_batches_survive_reopening,
    a_failed_write_is_never_reported_as_success,
    a_write_that_fails_after_taking_effect_is_not_reported_either,
    a_crash_loses_only_what_was_not_acknowledged,
    too_much_outstanding_is_refused,
    one_batch_alone_may_exceed_the_bound,
    closing_writes_what_was_submitted_and_refuses_more,
    dropping_the_last_handle_writes_what_was_submitted,
    everybody_is_told_although_some_have_gone_or_do_not_ask,
    inline_batches_are_durable_at_once,
    an_inline_failure_ends_the_store,
);

use Table::{AsUsers, QueueEntries, Queues};

async fn a_submitted_batch_is_pending_until_it_is_durable<F: Fixture>(fixture: F) {
    let (store, faults, _) = open(fixture.engine());
    store.barrier().await.unwrap();
    faults.hold();
    let commit = store.submit(put(AsUsers, 1, "a")).unwrap();
    assert_eq!(get(store.pending(), AsUsers, 1).await.as_deref(), Some("a"));
    assert_eq!(get(store.pending(), Queues, 1).await, None);
    assert_eq!(get(store.durable(), AsUsers, 1).await, None);
    let barrier = store.barrier();
    faults.release();
    commit.await.unwrap();
    barrier.await.unwrap();
    assert_eq!(get(store.durable(), AsUsers, 1).await.as_deref(), Some("a"));
    assert!(store.0.with_overlay(|overlay| overlay.is_empty()));
    assert_eq!(get(store.pending(), AsUsers, 1).await.as_deref(), Some("a"));
}

async fn a_batch_that_conflicts_leaves_nothing<F: Fixture>(fixture: F) {
    let (store, _, _) = open(fixture.engine());
    store.submit(put(AsUsers, 1, "a")).unwrap().await.unwrap();
    let requirements: [fn(&mut Batch); 3] = [
        |batch| {
            batch.require_absent(AsUsers, key(1));
        },
        |batch| {
            batch.require_present(AsUsers, key(2));
        },
        |batch| {
            batch.require_value(AsUsers, key(1), "b");
        },
    ];
    for requirement in requirements {
        let mut batch = put(Queues, 1, "x");
        requirement(&mut batch);
        let mut merged = put(QueueEntries, 1, "y");
        merged.merge(batch);
        assert_eq!(store.submit(merged).unwrap_err(), StoreError::Conflict);
    }
    let mut batch = put(Queues, 2, "x");
    batch.require_absent(AsUsers, key(2)).require_present(AsUsers, key(1)).require_value(AsUsers, key(1), "a");
    store.submit(batch).unwrap().await.unwrap();
    assert_eq!(numbers(store.pending(), Queues, Key::new().., Limit::rows(9)).await, [2]);
    assert_eq!(numbers(store.pending(), QueueEntries, Key::new().., Limit::rows(9)).await, [0; 0]);
}

async fn preconditions_count_what_was_submitted_before<F: Fixture>(fixture: F) {
    let (store, faults, _) = open(fixture.engine());
    store.submit(put(AsUsers, 1, "old")).unwrap().await.unwrap();
    faults.hold();
    let claim = |number| {
        let mut batch = put(AsUsers, number, "new");
        batch.require_absent(AsUsers, key(number));
        batch
    };
    let first = store.submit(claim(2)).unwrap();
    assert_eq!(store.submit(claim(2)).unwrap_err(), StoreError::Conflict);
    assert_eq!(store.submit(claim(1)).unwrap_err(), StoreError::Conflict);
    let mut clear = Batch::new();
    clear.delete_range(AsUsers, key(0), key(9));
    let _pending = store.submit(clear).unwrap();
    let second = store.submit(claim(1)).unwrap();
    // Conditions alone are a question whose answer rests on what is pending.
    let mut question = Batch::new();
    question.require_value(AsUsers, key(1), "new").require_absent(AsUsers, key(2));
    let answer = store.submit(question).unwrap();
    faults.release();
    for commit in [first, second, answer] {
        commit.await.unwrap();
    }
    assert_eq!(numbers(store.durable(), AsUsers, Key::new().., Limit::rows(9)).await, [1]);
}

async fn operations_of_a_batch_act_in_their_order<F: Fixture>(fixture: F) {
    let (store, faults, _) = open(fixture.engine());
    store.submit(put(Queues, 3, "old")).unwrap().await.unwrap();
    faults.hold();
    let mut batch = put(Queues, 1, "a");
    batch.put(Queues, key(2), "b").delete_range(Queues, key(0), key(5)).put(Queues, key(2), "c");
    batch.put(Queues, key(4), "d").delete(Queues, key(4)).delete(Queues, key(6)).put(Queues, key(6), "e");
    let commit = store.submit(batch).unwrap();
    assert_eq!(numbers(store.pending(), Queues, Key::new().., Limit::rows(9)).await, [2, 6]);
    faults.release();
    commit.await.unwrap();
    assert_eq!(numbers(store.durable(), Queues, Key::new().., Limit::rows(9)).await, [2, 6]);
    assert_eq!(get(store.durable(), Queues, 2).await.as_deref(), Some("c"));
}

async fn batches_act_in_the_order_of_submission<F: Fixture>(fixture: F) {
    let (store, faults, _) = open(fixture.engine());
    faults.hold();
    let values = ["a", "b", "c", "d", "e"];
    for value in values {
        let _pending = store.submit(put(AsUsers, 7, value)).unwrap();
        assert_eq!(get(store.pending(), AsUsers, 7).await.as_deref(), Some(value));
    }
    let barrier = store.barrier();
    faults.release();
    barrier.await.unwrap();
    assert_eq!(get(store.durable(), AsUsers, 7).await.as_deref(), Some("e"));
}

async fn a_newer_pending_row_outlives_the_commit_of_an_older_one<F: Fixture>(fixture: F) {
    let (store, faults, _) = open(fixture.engine());
    faults.hold();
    let older = store.submit(put(AsUsers, 1, "older")).unwrap();
    faults.wait_until_held().await;
    let newer = store.submit(put(AsUsers, 1, "newer")).unwrap();
    let mut clear = Batch::new();
    clear.delete_range(AsUsers, key(0), key(1)).put(AsUsers, key(0), "after");
    let cleared = store.submit(clear).unwrap();
    faults.release_one();
    older.await.unwrap();
    assert_eq!(get(store.durable(), AsUsers, 1).await.as_deref(), Some("older"));
    assert_eq!(get(store.pending(), AsUsers, 1).await.as_deref(), Some("newer"));
    assert_eq!(get(store.pending(), AsUsers, 0).await.as_deref(), Some("after"));
    faults.release();
    newer.await.unwrap();
    cleared.await.unwrap();
    assert_eq!(get(store.durable(), AsUsers, 1).await.as_deref(), Some("newer"));
}

async fn a_row_that_exists_is_never_missed_while_it_becomes_durable<F: Fixture>(fixture: F) {
    let (store, _faults, _) = open(fixture.engine());
    let rewrite = || {
        let mut batch = Batch::new();
        batch.delete_range(QueueEntries, key(0), key(1000));
        // Enough rows that the overlay forgets them in several steps.
        for number in 0..1000 {
            batch.put(QueueEntries, key(number), "always there");
        }
        batch
    };
    store.submit(rewrite()).unwrap().await.unwrap();
    let writer = {
        let store = store.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for _ in 0..100 {
                runtime.block_on(store.submit(rewrite()).unwrap()).unwrap();
            }
        })
    };
    let mut reads = 0u64;
    while !writer.is_finished() {
        assert!(get(store.pending(), QueueEntries, 0).await.is_some(), "look-up {reads}");
        assert_eq!(numbers(store.pending(), QueueEntries, Key::new().., Limit::rows(2)).await, [0, 1], "scan {reads}");
        reads += 1;
    }
    writer.join().unwrap();
}

async fn deletes_and_range_deletes_hide_rows_at_once<F: Fixture>(fixture: F) {
    let (store, faults, _) = open(fixture.engine());
    let mut rows = Batch::new();
    for number in 0..100 {
        rows.put(QueueEntries, key(number), "v");
    }
    store.submit(rows).unwrap().await.unwrap();
    faults.hold();
    let mut batch = Batch::new();
    batch.delete_range(QueueEntries, key(10), key(60)).delete_range(QueueEntries, key(50), key(80));
    batch.delete(QueueEntries, key(85)).put(QueueEntries, key(70), "w");
    let commit = store.submit(batch).unwrap();
    let expected: Vec<u64> = (0..10).chain([70]).chain(80..85).chain(86..100).collect();
    assert_eq!(numbers(store.pending(), QueueEntries, Key::new().., Limit::rows(100)).await, expected);
    assert_eq!(numbers(store.pending(), QueueEntries, key(9)..key(81), Limit::rows(100)).await, [9, 70, 80]);
    assert_eq!(get(store.pending(), QueueEntries, 55).await, None);
    assert_eq!(numbers(store.durable(), QueueEntries, Key::new().., Limit::rows(200)).await.len(), 100);
    faults.release();
    commit.await.unwrap();
    assert_eq!(numbers(store.durable(), QueueEntries, Key::new().., Limit::rows(100)).await, expected);
}

async fn scans_stop_at_their_limit<F: Fixture>(fixture: F) {
    let (store, faults, _) = open(fixture.engine());
    let mut rows = Batch::new();
    for number in (0..100).step_by(2) {
        rows.put(QueueEntries, key(number), "12345678");
    }
    store.submit(rows).unwrap().await.unwrap();
    faults.hold();
    let mut rows = Batch::new();
    for number in (1..100).step_by(2) {
        rows.put(QueueEntries, key(number), "12345678");
    }
    rows.delete(QueueEntries, key(0));
    let commit = store.submit(rows).unwrap();
    let all = || Key::new()..;
    assert_eq!(numbers(store.pending(), QueueEntries, all(), Limit::rows(5)).await, [1, 2, 3, 4, 5]);
    // Each row counts sixteen bytes; the one that reaches the bound is the last.
    assert_eq!(numbers(store.pending(), QueueEntries, all(), Limit::rows(9).bytes(33)).await, [1, 2, 3]);
    assert_eq!(numbers(store.durable(), QueueEntries, all(), Limit::rows(9).bytes(1)).await, [0]);
    assert_eq!(numbers(store.durable(), QueueEntries, all(), Limit::rows(0)).await, [0; 0]);
    faults.release();
    commit.await.unwrap();
}

async fn empty_and_inverted_ranges_hold_nothing<F: Fixture>(fixture: F) {
    let (store, faults, _) = open(fixture.engine());
    faults.hold();
    let mut batch = put(Queues, 5, "a");
    batch.delete_range(Queues, key(9), key(1)).delete_range(Queues, key(5), key(5));
    let commit = store.submit(batch).unwrap();
    for view in [store.pending(), store.durable()] {
        assert_eq!(numbers(view.clone(), Queues, key(9)..key(1), Limit::rows(9)).await, [0; 0]);
        assert_eq!(numbers(view, Queues, key(5)..key(5), Limit::rows(9)).await, [0; 0]);
    }
    faults.release();
    commit.await.unwrap();
    assert_eq!(numbers(store.durable(), Queues, Key::new().., Limit::rows(9)).await, [5]);
}

async fn waiting_batches_share_a_write<F: Fixture>(fixture: F) {
    let (store, faults, _) = open(fixture.engine());
    faults.hold();
    let commits: Vec<Commit> = (0..100).map(|number| store.submit(put(AsUsers, number, "a")).unwrap()).collect();
    faults.release();
    for commit in commits {
        commit.await.unwrap();
    }
    assert!(faults.writes() <= 2, "{} writes", faults.writes());
    assert_eq!(numbers(store.durable(), AsUsers, Key::new().., Limit::rows(200)).await.len(), 100);
}

async fn acknowledged_batches_survive_reopening<F: Fixture>(fixture: F) {
    const SUBMITTERS: u64 = 8;
    const EACH: u64 = 25;
    let (store, _, _) = open(fixture.engine());
    let submitters: Vec<_> = (0..SUBMITTERS)
        .map(|submitter| {
            let store = store.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for number in 0..EACH {
                    let mut batch = put(QueueEntries, submitter * EACH + number, "entry");
                    batch.put(Queues, key(submitter), number.to_be_bytes().to_vec());
                    runtime.block_on(store.submit(batch).unwrap()).unwrap();
                }
            })
        })
        .collect();
    for submitter in submitters {
        submitter.join().unwrap();
    }
    drop(store);
    let (store, _, _) = open(fixture.engine());
    let entries = numbers(store.durable(), QueueEntries, Key::new().., Limit::rows(1000)).await;
    assert_eq!(entries, (0..SUBMITTERS * EACH).collect::<Vec<_>>());
    for row in store.durable().scan(Queues, Key::new().., Limit::rows(1000)).await.unwrap() {
        assert_eq!(row.value[..], (EACH - 1).to_be_bytes());
    }
}

async fn a_failed_write_is_never_reported_as_success<F: Fixture>(fixture: F) {
    let (store, faults, failures) = open(fixture.engine());
    store.submit(put(AsUsers, 1, "a")).unwrap().await.unwrap();
    faults.fail_write(0, Fault::Before);
    faults.hold();
    let commits: Vec<Commit> = (2..9).map(|number| store.submit(put(AsUsers, number, "b")).unwrap()).collect();
    faults.release();
    for commit in commits {
        assert_eq!(commit.await, Err(StoreError::Failed));
    }
    assert_eq!(failures.load(Ordering::SeqCst), 1);
    assert_eq!(store.submit(put(AsUsers, 9, "c")).unwrap_err(), StoreError::Failed);
    assert_eq!(store.barrier().await, Err(StoreError::Failed));
    assert_eq!(store.close().await, Err(StoreError::Failed));
    drop(store);
    let (store, _, _) = open(fixture.engine());
    assert_eq!(numbers(store.durable(), AsUsers, Key::new().., Limit::rows(9)).await, [1]);
}

async fn a_write_that_fails_after_taking_effect_is_not_reported_either<F: Fixture>(fixture: F) {
    let (store, faults, failures) = open(fixture.engine());
    faults.fail_write(1, Fault::After);
    store.submit(put(AsUsers, 1, "a")).unwrap().await.unwrap();
    assert_eq!(store.submit(put(AsUsers, 2, "b")).unwrap().await, Err(StoreError::Failed));
    assert_eq!(store.submit(put(AsUsers, 3, "c")).unwrap_err(), StoreError::Failed);
    assert_eq!(failures.load(Ordering::SeqCst), 1);
    drop(store);
    let (store, _, _) = open(fixture.engine());
    assert_eq!(numbers(store.durable(), AsUsers, Key::new().., Limit::rows(9)).await, [1, 2]);
}

async fn a_crash_loses_only_what_was_not_acknowledged<F: Fixture>(fixture: F) {
    let (store, faults, _) = open(fixture.engine());
    store.submit(put(AsUsers, 1, "a")).unwrap().await.unwrap();
    faults.hold();
    let lost = store.submit(put(AsUsers, 2, "b")).unwrap();
    faults.crash();
    assert_eq!(lost.await, Err(StoreError::Failed));
    drop(store);
    let (store, _, _) = open(fixture.engine());
    assert_eq!(numbers(store.durable(), AsUsers, Key::new().., Limit::rows(9)).await, [1]);
}

async fn too_much_outstanding_is_refused<F: Fixture>(fixture: F) {
    let (store, faults, _) = open_with(fixture.engine(), |options| options.max_outstanding_batches = 2);
    faults.hold();
    let first = store.submit(put(AsUsers, 1, "a")).unwrap();
    let second = store.submit(put(AsUsers, 2, "b")).unwrap();
    assert_eq!(store.submit(put(AsUsers, 3, "c")).unwrap_err(), StoreError::Overloaded);
    assert_eq!(get(store.pending(), AsUsers, 3).await, None);
    faults.release();
    first.await.unwrap();
    second.await.unwrap();
    store.submit(put(AsUsers, 3, "c")).unwrap().await.unwrap();
}

async fn one_batch_alone_may_exceed_the_bound<F: Fixture>(fixture: F) {
    let (store, faults, _) = open_with(fixture.engine(), |options| options.max_outstanding_bytes = 10);
    faults.hold();
    let alone = store.submit(put(AsUsers, 1, "much more than ten bytes")).unwrap();
    assert_eq!(store.submit(put(AsUsers, 2, "b")).unwrap_err(), StoreError::Overloaded);
    faults.release();
    alone.await.unwrap();
}

async fn closing_writes_what_was_submitted_and_refuses_more<F: Fixture>(fixture: F) {
    let (store, _, failures) = open(fixture.engine());
    // Nobody waits for this one.
    drop(store.submit(put(AsUsers, 1, "a")).unwrap());
    store.close().await.unwrap();
    assert_eq!(store.submit(put(AsUsers, 2, "b")).unwrap_err(), StoreError::Closed);
    assert_eq!(get(store.durable(), AsUsers, 1).await.as_deref(), Some("a"));
    store.close().await.unwrap();
    drop(store);
    let (store, _, _) = open(fixture.engine());
    assert_eq!(numbers(store.durable(), AsUsers, Key::new().., Limit::rows(9)).await, [1]);
    assert_eq!(failures.load(Ordering::SeqCst), 0);
}

async fn dropping_the_last_handle_writes_what_was_submitted<F: Fixture>(fixture: F) {
    let (store, _, _) = open(fixture.engine());
    for number in 0..50 {
        drop(store.submit(put(AsUsers, number, "a")).unwrap());
    }
    drop(store);
    let (store, _, _) = open(fixture.engine());
    assert_eq!(numbers(store.durable(), AsUsers, Key::new().., Limit::rows(99)).await.len(), 50);
}

async fn everybody_is_told_although_some_have_gone_or_do_not_ask<F: Fixture>(fixture: F) {
    let (store, faults, _) = open(fixture.engine());
    faults.hold();
    let first = store.submit(put(AsUsers, 0, "a")).unwrap();
    // These share the next write. Of those who wait for it one has gone, and one is asked for the first time when all is over.
    let submit = |number| store.submit(put(AsUsers, number, "a")).unwrap();
    let (not_asked, mut waiting) = (submit(1), Vec::new());
    for number in 2..6 {
        let commit = submit(number);
        waiting.push(tokio::spawn(async move { (number, commit.await) }));
    }
    tokio::task::yield_now().await;
    let gone = [waiting.pop().unwrap(), waiting.remove(0)];
    for task in &gone {
        task.abort();
    }
    faults.release();
    first.await.unwrap();
    for task in waiting {
        assert_eq!(task.await.unwrap().1, Ok(()));
    }
    assert_eq!(not_asked.await, Ok(()));
    assert!(store.backlog().is_zero());
}

async fn inline_batches_are_durable_at_once<F: Fixture>(fixture: F) {
    let (store, faults, _) = open_with(fixture.engine(), |options| options.inline = true);
    let commit = store.submit(put(AsUsers, 1, "a")).unwrap();
    assert_eq!(get(store.durable(), AsUsers, 1).await.as_deref(), Some("a"));
    assert!(store.0.with_overlay(|overlay| overlay.is_empty()));
    assert_eq!(faults.writes(), 1);
    commit.await.unwrap();
    store.close().await.unwrap();
    assert_eq!(store.submit(put(AsUsers, 2, "b")).unwrap_err(), StoreError::Closed);
}

async fn an_inline_failure_ends_the_store<F: Fixture>(fixture: F) {
    let (store, faults, failures) = open_with(fixture.engine(), |options| options.inline = true);
    faults.fail_write(0, Fault::Before);
    assert_eq!(store.submit(put(AsUsers, 1, "a")).unwrap().await, Err(StoreError::Failed));
    assert_eq!(store.submit(put(AsUsers, 2, "b")).unwrap_err(), StoreError::Failed);
    assert_eq!(failures.load(Ordering::SeqCst), 1);
}

#[test]
fn batches_and_rows_are_not_printed() {
    let mut batch = put(AsUsers, 1, "secret");
    batch.require_absent(Queues, key(2));
    let row = Row { key: key(3), value: "secret".into() };
    let printed = format!("{batch:?} {row:?}");
    assert_eq!(printed, "Batch(1 operations, 1 requirements, 78 bytes) Row(8 + 6 bytes)");
}

#[test]
fn a_merged_write_has_one_operation_per_row_in_order() {
    let mut batch = put(QueueEntries, 9, "a");
    batch.put(AsUsers, key(2), "b").put(AsUsers, key(1), "c").delete_range(QueueEntries, key(5), key(20));
    batch.put(QueueEntries, key(6), "d").put(AsUsers, key(2), "e").delete(Queues, key(1));
    let settled = batch::settle(batch.operations);
    let found: Vec<_> = settled.iter().map(|op| (op.table, op.key.reader().u64().unwrap())).collect();
    assert_eq!(found, [(AsUsers, 1), (AsUsers, 2), (Queues, 1), (QueueEntries, 5), (QueueEntries, 6)]);
    assert!(matches!(&settled[1].change, Change::Put(value) if value == "e"));
}
