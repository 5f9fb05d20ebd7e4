//! Streams: where they start, how they cross runs, what they do when nothing happens.

use super::*;
use bytes::Bytes;

#[tokio::test]
async fn from_the_start_to_the_live_end_and_on() {
    let mut bench = Bench::new();
    bench.send("t", "m1");
    let mut stream = bench.feed.read("agent", Position::default()).unwrap();
    let mut batches = up_to(&mut stream, 1, bench.head()).await;
    assert_eq!(batches[0].first_sequence, 1);
    bench.send("t", "m2");
    bench.send("u", "m3");
    batches.extend(up_to(&mut stream, 1, bench.head()).await);
    let last = batches.last().unwrap();
    assert_eq!((last.head_sequence, last.run_end), (bench.head(), None));
    let facts = facts(&batches, position(1, 0));
    assert!(matches!(facts.first(), Some(Fact::Recovered(recovered)) if recovered.clean));
    assert_eq!(known(&folded(&facts)), known(bench.core.state_view()));
}

#[tokio::test]
async fn resuming_between_reset_points_brings_what_the_decoder_needs_and_nothing_twice() {
    let mut bench = Bench::new();
    for n in 0..20 {
        bench.send("t", &format!("m{n}"));
    }
    let all = {
        let mut stream = bench.feed.read("agent", Position::default()).unwrap();
        facts(&up_to(&mut stream, 1, bench.head()).await, position(1, 0))
    };
    let after = position(1, bench.head() - 7);
    let mut stream = bench.feed.read("agent", after).unwrap();
    let batches = up_to(&mut stream, 1, bench.head()).await;
    assert!(batches[0].first_sequence <= after.sequence, "frame {} is no reset point", after.sequence + 1);
    let rest = facts(&batches, after);
    assert!(!rest.is_empty() && rest.len() < all.len());
    assert_eq!(rest, all[all.len() - rest.len()..]);

    // nothing new: what the decoder needs comes again, then the stream is live
    let at_head = position(1, bench.head());
    let mut stream = bench.feed.read("agent", at_head).unwrap();
    let mut batches = up_to(&mut stream, 1, bench.head()).await;
    bench.send("t", "new");
    batches.extend(up_to(&mut stream, 1, bench.head()).await);
    let new = facts(&batches, at_head);
    assert!(matches!(&new[0], Fact::Stored(stored) if stored.ids.iter().eq([b"new".as_slice()])), "{new:?}");
}

#[tokio::test]
async fn a_restart_ends_the_old_run_and_the_next_one_follows() {
    let mut bench = Bench::new();
    bench.send("t", "m1");
    let (middle, last) = (position(1, bench.head()), bench.head() + 1);
    bench.send("t", "m2");
    assert_eq!(bench.head(), last);
    let mut bench = bench.restart();
    bench.send("t", "m3");

    let mut stream = bench.feed.read("agent", Position::default()).unwrap();
    let batches = up_to(&mut stream, 2, bench.head()).await;
    let ends: Vec<&Batch> = batches.iter().filter(|batch| batch.run_end.is_some()).collect();
    let end = RunEnd { last_sequence: last, next: incarnation(2) };
    assert_eq!(
        ends.iter().map(|b| (b.incarnation, b.run_end)).collect::<Vec<_>>(),
        [(incarnation(1), Some(end))]
    );
    let closed: Vec<&Batch> = batches.iter().take_while(|b| b.incarnation == incarnation(1)).collect();
    assert!(closed.iter().all(|b| b.head_sequence == last && b.flushed_sequence == last));
    assert!(closed.last().unwrap().run_end.is_some(), "the end comes last");
    assert_eq!(batches[closed.len()].first_sequence, 1);
    let all = facts(&batches, position(1, 0));
    assert_eq!(known(&folded(&all)), known(bench.core.state_view()));

    let mut stream = bench.feed.read("agent", middle).unwrap();
    let resumed = facts(&up_to(&mut stream, 2, bench.head()).await, middle);
    assert_eq!(resumed, all[all.len() - resumed.len()..]);
    assert!(resumed.iter().any(|fact| matches!(fact, Fact::Recovered(_))));

    // a reader that holds more of the old run than the journal kept hears only that it is over
    let mut stream = bench.feed.read("agent", position(1, last + 5)).unwrap();
    let batches = up_to(&mut stream, 2, bench.head()).await;
    assert_eq!((batches[0].frames.len(), batches[0].run_end), (0, Some(end)));
    assert_eq!((batches[1].incarnation, batches[1].first_sequence), (incarnation(2), 1));
}

#[tokio::test]
async fn a_sign_of_life_every_second() {
    let bench = Bench::new();
    let head = bench.head();
    let mut stream = bench.feed.read("agent", position(1, head)).unwrap();
    up_to(&mut stream, 1, head).await;
    for flushed_sequence in [3, 4] {
        bench.heads.send_modify(|told| told.flushed_sequence = flushed_sequence);
        let before = tokio::time::Instant::now();
        let beat = next(&mut stream).await.unwrap();
        let waited = before.elapsed();
        assert!(waited > Duration::from_millis(900), "not at every flush: {waited:?}");
        assert_eq!((beat.first_sequence, beat.frames.len()), (head + 1, 0));
        assert_eq!((beat.head_sequence, beat.flushed_sequence), (head, flushed_sequence));
    }
}

#[tokio::test]
async fn a_newer_stream_of_the_same_reader_ends_the_older_one() {
    let mut bench = Bench::new();
    let mut old = bench.feed.read("agent", Position::default()).unwrap();
    let mut other = bench.feed.read("another", Position::default()).unwrap();
    up_to(&mut old, 1, bench.head()).await;
    let mut new = bench.feed.read("agent", Position::default()).unwrap();
    assert_eq!(next(&mut old).await, None);
    bench.send("t", "m1");
    up_to(&mut new, 1, bench.head()).await;
    up_to(&mut other, 1, bench.head()).await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_loses_nothing_and_stops_nobody() {
    let mut bench = Bench::new();
    let mut slow = bench.feed.read("slow", Position::default()).unwrap();
    up_to(&mut slow, 1, bench.head()).await;
    for n in 0..40 {
        bench.send("t", &format!("m{n}"));
        // long enough for a batch of its own
        tokio::time::sleep(Duration::from_millis(8)).await;
    }
    let mut batches = vec![];
    while batches.last().is_none_or(|b: &Batch| b.first_sequence + b.frames.len() as u64 <= bench.head()) {
        batches.push(next(&mut slow).await.unwrap());
    }
    assert!(batches.len() > BATCHES_WAITING_MAX, "they waited in {} batches", batches.len());
    let sequences = batches.iter().flat_map(|b| (b.first_sequence..).take(b.frames.len()));
    assert!(sequences.eq(batches[0].first_sequence..=bench.head()));
}

#[tokio::test]
async fn batches_stay_under_the_limit_but_for_a_single_large_frame() {
    let mut bench = Bench::new();
    for n in 0..30 {
        bench.send("t", &format!("{n:0100}"));
    }
    let limit = 250;
    let order = (position(1, 0), limit);
    let mut stream = bench.feed.read_until("agent", order, CancellationToken::new()).unwrap();
    let batches = up_to(&mut stream, 1, bench.head()).await;
    let sizes = batches.iter().map(|b| (b.frames.len(), b.frames.iter().map(Bytes::len).sum::<usize>()));
    let sizes: Vec<(usize, usize)> = sizes.collect();
    assert!(sizes.iter().all(|(frames, bytes)| *frames == 1 || *bytes <= limit), "{sizes:?}");
    assert!(sizes.iter().any(|(frames, bytes)| *frames == 1 && *bytes > limit), "{sizes:?}");
    assert!(sizes.iter().any(|(frames, _)| *frames > 1), "{sizes:?}");
    facts(&batches, position(1, 0));
}

#[tokio::test]
async fn what_the_last_turn_wrote_is_sent_before_the_stream_ends() {
    let mut bench = Bench::new();
    let mut stream = bench.feed.read("agent", Position::default()).unwrap();
    up_to(&mut stream, 1, bench.head()).await;
    bench.send("t", "last");
    let Bench { core, heads, now, .. } = bench;
    let before_close = core.journal_head().0.sequence;
    core.close(now).unwrap();
    drop(heads);
    let mut last = 0;
    while let Some(batch) = next(&mut stream).await {
        assert_eq!(batch.run_end, None);
        last = batch.first_sequence + batch.frames.len() as u64 - 1;
    }
    assert!(last >= before_close, "{last} of {before_close}");
}

#[tokio::test]
async fn a_run_that_is_not_known_is_refused() {
    let mut bench = Bench::new();
    bench.send("t", "m1");
    let refused = bench.feed.read("agent", position(9, 3)).err();
    assert_eq!(refused, Some(FeedError::UnknownRun(incarnation(9))));
}

#[tokio::test]
async fn trimmed_frames_show_as_a_hole_and_a_trimmed_run_as_its_end() {
    let mut bench = Bench::new();
    bench.send("t", "m1");
    let last = bench.head();
    let mut bench = bench.restart();
    bench.send("t", "m2");
    bench.core.cut_journal(position(2, 1)).unwrap();
    assert_eq!(bench.core.journal_view().incarnations().len(), 1);

    let refused = bench.feed.read("agent", position(1, last - 1)).err();
    assert_eq!(refused, Some(FeedError::Trimmed(position(1, last - 1))), "frame {last} cannot be had");
    let mut stream = bench.feed.read("agent", position(1, last)).unwrap();
    let batches = up_to(&mut stream, 2, bench.head()).await;
    let end = RunEnd { last_sequence: last, next: incarnation(2) };
    assert_eq!((batches[0].first_sequence, batches[0].run_end), (last + 1, Some(end)));
    assert_eq!((batches[1].incarnation, batches[1].first_sequence), (incarnation(2), 1));

    // the oldest frame kept is now the second run's first
    let mut stream = bench.feed.read("agent", Position::default()).unwrap();
    assert_eq!(up_to(&mut stream, 2, 1).await[0].incarnation, incarnation(2));
}

#[tokio::test]
async fn a_hole_starts_a_new_batch_at_a_reset_point() {
    let disk = SimDisk::new();
    let mut config = store::journal::JournalConfig::new("/j".into());
    config.segment_size_bytes = 400;
    let open = |run| {
        let disk: Arc<dyn store::disk::Disk> = Arc::new(disk.clone());
        store::journal::Journal::open(disk, config.clone(), incarnation(run), 0).unwrap().0
    };
    let mut journal = open(1);
    let mut encoder = lifecycle::frame::FrameEncoder::new();
    for n in 1..=200 {
        let mut payload = Vec::new();
        let log_position = lifecycle::identity::LogPosition(n * 1000);
        let reset = journal.needs_reset() || encoder.wants_reset();
        encoder.encode(START, reset, &[Fact::Flushed { log_position }], &mut payload);
        journal.append(&payload, reset).unwrap();
    }
    journal.write().unwrap();
    drop(journal);
    // the front of the run is trimmed, and a bit rots further back
    let mut journal = open(2);
    journal.remove_before(position(1, 30)).unwrap();
    let first_kept = journal.view().incarnations()[0].first_sequence;
    assert!(first_kept > 1 && first_kept <= 30);
    let second = disk.files().into_iter().filter(|(path, _)| path.starts_with("/j")).nth(1).unwrap();
    assert!(disk.flip_bit(&second.0, 60, 0));

    let (_heads, told) = watch::channel(FeedHead { position: position(2, 0), flushed_sequence: 0 });
    let feed = FeedHandle::new("b".into(), journal.view(), CoreHandle::new(), told);
    for gone in [0, first_kept - 2] {
        let told = feed.read("agent", position(1, gone)).err();
        assert_eq!(told, Some(FeedError::Trimmed(position(1, gone))), "no hole without a word");
    }
    let mut stream = feed.read("agent", position(1, first_kept - 1)).unwrap();
    let mut batches = vec![next(&mut stream).await.unwrap()];
    assert_eq!(batches[0].first_sequence, first_kept);
    while batches.last().unwrap().run_end.is_none() {
        batches.push(next(&mut stream).await.unwrap());
    }
    let end = batches.pop().unwrap();
    assert_eq!(end.run_end, Some(RunEnd { last_sequence: 200, next: incarnation(2) }));
    assert!(batches.len() >= 2, "one batch before the damage, one behind it");
    let mut expected = first_kept;
    let mut missing = 0;
    for batch in &batches {
        missing += batch.first_sequence - expected;
        expected = batch.first_sequence + batch.frames.len() as u64;
        let mut decoder = FrameDecoder::new();
        for (sequence, frame) in (batch.first_sequence..).zip(&batch.frames) {
            let log_position = lifecycle::identity::LogPosition(sequence * 1000);
            assert_eq!(decoder.decode(frame).unwrap().facts, [Fact::Flushed { log_position }]);
        }
    }
    assert_eq!(expected, 201);
    assert!(missing >= 1, "the damaged frame is missing and nothing else is renumbered");
}
