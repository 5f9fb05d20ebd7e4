//! Snapshots and searches: what is true of them when the turns go on.

use super::*;
use lifecycle::identity::{QueueKey, TopicIncarnation};
use sha2::{Digest, Sha256};

fn by_id(id: &str) -> LocateQuery {
    LocateQuery { what: LocateBy::Id(id.into()), topic: String::new(), limit: 0 }
}

fn by_key(topic: &str, key: &str) -> LocateQuery {
    LocateQuery { what: LocateBy::Key(key.into()), topic: topic.into(), limit: 0 }
}

#[tokio::test]
async fn a_snapshot_and_what_follows_it_give_the_same_state_as_everything() {
    let mut bench = Bench::new();
    bench.send("t", "m1");
    let mut bench = bench.restart();
    bench.send("t", "m2");
    bench.send("u", "m3");
    let feed = bench.feed.clone();
    let snapshot = bench.answered(feed.snapshot("agent")).await.unwrap();
    assert_eq!(snapshot.broker_name.as_ref(), "b");
    assert_eq!(snapshot.position, position(2, bench.head()));
    assert_eq!((snapshot.oldest, snapshot.history_complete), (position(1, 0), true));
    let mut decoder = FrameDecoder::new();
    let mut all = Vec::new();
    for (index, frame) in snapshot.frames.iter().enumerate() {
        let frame = decoder.decode(frame).unwrap();
        assert_eq!((frame.reset, frame.snapshot), (index == 0, true));
        all.extend(frame.facts);
    }
    assert_eq!(known(&folded(&all)), known(bench.core.state_view()));

    let mut stream = feed.read("agent", snapshot.position).unwrap();
    bench.send("t", "m4");
    bench.send("v", "m5");
    let batches = up_to(&mut stream, 2, bench.head()).await;
    all.extend(facts(&batches, snapshot.position));
    assert_eq!(known(&folded(&all)), known(bench.core.state_view()));
}

#[tokio::test]
async fn history_is_not_complete_once_the_journal_was_trimmed() {
    let mut bench = Bench::new().restart();
    bench.core.cut_journal(position(2, 1)).unwrap();
    let feed = bench.feed.clone();
    let snapshot = bench.answered(feed.snapshot("agent")).await.unwrap();
    assert_eq!((snapshot.oldest, snapshot.history_complete), (position(2, 0), false));
}

#[tokio::test]
async fn messages_are_found_by_id_offset_id_and_key() {
    let mut bench = Bench::new();
    let first = bench.send("t", "m1");
    bench.send("t", "m2");
    bench.send("u", "m1");
    let feed = bench.feed.clone();
    let found = bench.answered(feed.locate(by_id("m1"))).await.unwrap();
    assert!(found.complete);
    let mut topics: Vec<&str> = found.places.iter().map(|place| place.topic.as_str()).collect();
    topics.sort_unstable();
    assert_eq!(topics, ["t", "u"]);

    let in_t = bench.answered(feed.locate(LocateQuery { topic: "t".into(), ..by_id("m1") })).await.unwrap();
    let [place] = in_t.places.as_slice() else { panic!("{in_t:?}") };
    assert_eq!((place.commitlog_offset, place.identity.queue_offset), (first.commitlog_offset, 0));
    assert_eq!(
        (place.unique_id.as_str(), place.keys.as_str(), place.tags.as_str()),
        ("m1", "key-m1 all", "t")
    );
    assert_eq!((place.body_bytes, place.born_wall_ms), (10, 1_600_000_000_000));
    assert_eq!((place.identity.epoch_number, place.lineage), (1, None));
    assert!(place.store_wall_ms > START.wall_ms);

    let id = wire::ids::OffsetMessageId {
        host: "127.0.0.1:10911".parse().unwrap(),
        commitlog_offset: first.commitlog_offset,
    };
    let by_offset = bench.answered(feed.locate(by_id(&id.to_string()))).await.unwrap();
    assert_eq!(by_offset.places, in_t.places);
    let elsewhere = wire::ids::OffsetMessageId { host: "127.0.0.2:10911".parse().unwrap(), ..id };
    let other_host = bench.answered(feed.locate(by_id(&elsewhere.to_string()))).await.unwrap();
    assert_eq!(other_host.places, []);

    let all = bench.answered(feed.locate(by_key("t", "all"))).await.unwrap();
    assert_eq!((all.places.len(), all.complete), (2, true));
    let cut = bench.answered(feed.locate(LocateQuery { limit: 1, ..by_key("t", "all") })).await.unwrap();
    assert_eq!((cut.places.len(), cut.complete), (1, false));
    let nowhere = bench.answered(feed.locate(by_key("", "all"))).await;
    assert!(matches!(nowhere, Err(FeedError::Invalid(_))), "{nowhere:?}");
}

#[tokio::test]
async fn not_found_speaks_of_frames_before_the_search_only() {
    let mut bench = Bench::new();
    bench.send("t", "m1");
    let before = bench.head();
    let feed = bench.feed.clone();
    let nothing = bench.answered(feed.locate(by_id("later"))).await.unwrap();
    assert_eq!((nothing.places.len(), nothing.complete), (0, true));
    assert_eq!(nothing.as_of, position(1, before));
    bench.send("t", "later");
    // the search happens between two turns: what is stored after it was asked for is found, and as_of says what was looked at
    let question = feed.locate(by_key("t", "key-between"));
    tokio::pin!(question);
    let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(question.as_mut().poll(cx))).await;
    assert!(polled.is_pending());
    bench.send("t", "between");
    let found = bench.answered(question).await.unwrap();
    assert_eq!(found.places.len(), 1);
    assert_eq!(found.as_of, position(1, bench.head()));
}

#[tokio::test]
async fn inspecting_shows_the_record_its_damage_or_nothing() {
    let mut bench = Bench::new();
    let stored = bench.send("t", "m1");
    let feed = bench.feed.clone();
    let place = bench.answered(feed.locate(by_id("m1"))).await.unwrap().places.remove(0);
    let inspected = bench.answered(feed.inspect(place.identity)).await.unwrap().unwrap();
    assert_eq!(inspected.place, place);
    assert_eq!(inspected.body_sha256, Sha256::digest(b"body of m1").to_vec());
    assert_eq!(
        (inspected.damage.as_str(), inspected.hosts.as_slice()),
        ("", ["127.0.0.1:10911".to_owned()].as_slice())
    );
    assert!(inspected.properties.contains(&("UNIQ_KEY".into(), "m1".into())));
    let any_epoch = MessageIdentity { epoch_number: 0, ..place.identity };
    assert_eq!(bench.answered(feed.inspect(any_epoch)).await.unwrap().unwrap().place, place);

    for identity in [
        MessageIdentity { epoch_number: 7, ..place.identity },
        MessageIdentity { queue_offset: 99, ..place.identity },
        MessageIdentity { queue: QueueKey { topic: TopicIncarnation(12345), queue_id: 0 }, ..place.identity },
    ] {
        assert_eq!(bench.answered(feed.inspect(identity)).await.unwrap(), None, "{identity:?}");
    }

    let files = bench.disk.files();
    let (log, _) = files.iter().find(|(path, _)| path.starts_with("/data/commitlog")).unwrap();
    assert!(bench.disk.flip_bit(log, stored.commitlog_offset + 60, 3));
    let damaged = bench.answered(feed.inspect(place.identity)).await.unwrap().unwrap();
    assert_ne!(damaged.damage, "");
    assert_eq!((damaged.place.identity, damaged.place.topic.as_str()), (place.identity, "t"));
}

#[tokio::test]
async fn a_core_that_stops_is_said_to() {
    let bench = Bench::new();
    bench.handle.close();
    let answer = bench.feed.locate(by_id("m1")).await;
    assert_eq!(answer, Err(FeedError::NotTaken(NotTaken::Stopped)));
}
