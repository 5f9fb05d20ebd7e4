//! Owns who sends where: the topics and queues of a run, and how clients go round them.

use super::options::BenchOptions;

/// The group that consumes.
pub(crate) const GROUP: &str = "bench-consumers";

pub(crate) fn topic_name(number: u32) -> String {
    format!("bench-{number}")
}

/// The queues one producer sends to, in turn: all of its topic's, or one when there are as many topics as producers.
pub(crate) struct Lane {
    topics: Vec<String>,
    queues: u32,
    at: u32,
}

impl Lane {
    /// Producers spread over the topics; with fewer producers than topics each has several.
    pub(crate) fn new(options: &BenchOptions, client: u32) -> Lane {
        let BenchOptions { topics, producers, queues, .. } = *options;
        let own = (0..topics).filter(|topic| topic % producers == client % topics.min(producers));
        Lane { topics: own.map(topic_name).collect(), queues, at: client }
    }

    pub(crate) fn next(&mut self) -> (&str, u32) {
        self.at = self.at.wrapping_add(1);
        let count = self.topics.len() as u32;
        let topic = &self.topics[(self.at % count) as usize];
        (topic, self.at / count % self.queues)
    }
}

/// All queues, dealt to consumers; each gets at least one.
pub(crate) fn deal_queues(options: &BenchOptions) -> Vec<Vec<(String, u32)>> {
    let BenchOptions { topics, queues, producers, .. } = *options;
    let all = (0..topics).flat_map(|topic| (0..queues).map(move |queue| (topic_name(topic), queue)));
    let consumers = producers.min(topics.saturating_mul(queues)) as usize;
    let mut dealt = vec![Vec::new(); consumers];
    for (index, queue) in all.enumerate() {
        dealt[index % consumers].push(queue);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use std::collections::BTreeSet;

    fn options(words: &str) -> BenchOptions {
        let words = ["losstrace", "bench"].into_iter().chain(words.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Some(Command::Bench(options)) => *options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_queue_is_sent_to_and_consumed_once() {
        for words in [
            "--producers 16 --topics 1 --queues 8",
            "--producers 4 --topics 10 --queues 3",
            "--producers 7 --topics 3 --queues 5",
            "--producers 1 --topics 5 --queues 2",
        ] {
            let options = options(words);
            let mut sent = BTreeSet::new();
            for client in 0..options.producers {
                let mut lane = Lane::new(&options, client);
                for _ in 0..200 {
                    let (topic, queue) = lane.next();
                    sent.insert((topic.to_owned(), queue));
                }
            }
            let consumed: Vec<_> = deal_queues(&options).into_iter().flatten().collect();
            assert_eq!(sent.len(), (options.topics * options.queues) as usize, "{words}");
            assert_eq!(consumed.len(), sent.len(), "{words}");
            assert_eq!(consumed.into_iter().collect::<BTreeSet<_>>(), sent, "{words}");
        }
    }

    #[test]
    fn limits_are_told() {
        assert!(options("").check().is_ok());
        for (words, name) in [
            ("--producers 0", "--producers"),
            ("--window 5000", "--window"),
            ("--seconds 0", "--seconds"),
            ("--paired a,b,c", "--paired"),
            ("--address 127.0.0.1:1 --protocol grpc", "--grpc-address"),
        ] {
            let error = options(words).check().unwrap_err().to_string();
            assert!(error.contains(name), "{words}: {error}");
        }
    }
}
