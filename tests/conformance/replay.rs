//! Owns a replay: brings a broker to where the real one was, plays the client's side of a conversation in its order, and
//! compares each answer. Places of this store stand for places of theirs: a client that names one is made to name ours.

use crate::client::Client;
use crate::compare::{Answers, Difference, differences};
use crate::given::{Given, Message, Queue};
use crate::transcript::{Line, Server};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use wire::code::request;
use wire::command::Command;
use wire::fields::Fields;
use wire::ids::OffsetMessageId;
use wire::message::{StoredMessage, records};

/// Where the broker under test listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) name_server: SocketAddr,
    pub(crate) broker: SocketAddr,
}

/// Longer than any answer but a held pull's takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// A held pull is let go after 15 s (RocketMQ looks every 5 s only: 20 s); a delayed message comes within 10 s.
const PULL_PATIENCE: Duration = Duration::from_secs(25);
/// Theirs said at once that it does not know the subscription yet; ours, asked in order, may hold such a pull.
const RACED_PATIENCE: Duration = Duration::from_millis(200);
const SUBSCRIPTION_NOT_LATEST: i32 = 25;

pub(crate) struct Replay {
    addresses: Addresses,
    clients: BTreeMap<(u64, Server), Client>,
    requests: BTreeMap<u64, Command>,
    /// Their commit-log offset → ours.
    places: BTreeMap<u64, u64>,
    /// Their store time → ours.
    times: BTreeMap<i64, i64>,
    /// Pulls that theirs refused because they overtook a heartbeat, and that ours holds.
    raced: BTreeSet<i32>,
    /// Connections of clients that were there before.
    before: Vec<Client>,
    found: Vec<Difference>,
}

impl Replay {
    pub(crate) fn new(addresses: Addresses) -> Replay {
        Replay {
            addresses,
            clients: BTreeMap::new(),
            requests: BTreeMap::new(),
            places: BTreeMap::new(),
            times: BTreeMap::new(),
            raced: BTreeSet::new(),
            before: Vec::new(),
            found: Vec::new(),
        }
    }

    /// Everything that differs.
    pub(crate) fn run(mut self, lines: &[Line]) -> Vec<Difference> {
        self.bring_about(&Given::before(lines));
        let answered: BTreeSet<u64> = lines.iter().filter_map(|line| line.answers).collect();
        let mut open = BTreeMap::new();
        for line in lines {
            match (line.from_client, line.answers) {
                (true, None) => {
                    self.one_after_the_other(line, &open);
                    self.client_says(line);
                    let is_soon =
                        line.command.code != request::PULL_MESSAGE && answered.contains(&line.number);
                    if is_soon {
                        open.insert(line.number, (line.connection, line.server, line.command.opaque));
                    }
                }
                (false, Some(number)) => {
                    open.remove(&number);
                    self.broker_answers(line, number);
                }
                (false, None) => self.broker_says(line),
                // a client's answer to a request of the broker: nothing listed asks one
                (true, Some(_)) => {}
            }
        }
        self.nothing_else_was_said(&answered);
        self.found
    }

    fn client(&mut self, connection: u64, server: Server) -> &mut Client {
        let address = match server {
            Server::NameServer => self.addresses.name_server,
            Server::Broker => self.addresses.broker,
        };
        self.clients.entry((connection, server)).or_insert_with(|| Client::connect(address))
    }

    /// What two connections ask at the same time was done in some order; here it is the order of asking.
    fn one_after_the_other(&mut self, line: &Line, open: &BTreeMap<u64, (u64, Server, i32)>) {
        for (connection, server, opaque) in open.values() {
            if *connection != line.connection {
                self.client(*connection, *server).await_answer(*opaque, PATIENCE);
            }
        }
    }

    fn client_says(&mut self, line: &Line) {
        let command = self.in_our_places(line.command.clone());
        self.client(line.connection, line.server).send(&command);
        self.requests.insert(line.number, command);
    }

    /// A commit-log offset or a store time that the real broker told is exchanged for ours.
    fn in_our_places(&self, command: Command) -> Command {
        let place = |value: &str| Some(self.places.get(&value.parse().ok()?)?.to_string());
        let time = |value: &str| {
            let theirs: i64 = value.parse().ok()?;
            let (stored, ours) = self.times.range(..=theirs).next_back()?;
            Some((ours + (theirs - stored).min(1)).to_string())
        };
        match command.code {
            request::CONSUMER_SEND_MSG_BACK | request::VIEW_MESSAGE_BY_ID => {
                replace(command, "offset", place)
            }
            request::SEARCH_OFFSET_BY_TIMESTAMP => replace(command, "timestamp", time),
            _ => command,
        }
    }

    fn broker_answers(&mut self, line: &Line, number: u64) {
        let Some(request) = self.requests.get(&number).cloned() else { return };
        let patience = match (request.code, line.command.code) {
            (request::PULL_MESSAGE, SUBSCRIPTION_NOT_LATEST) => RACED_PATIENCE,
            (request::PULL_MESSAGE, _) => PULL_PATIENCE,
            _ => PATIENCE,
        };
        let Some(ours) = self.client(line.connection, line.server).answer(request.opaque, patience) else {
            if line.command.code == SUBSCRIPTION_NOT_LATEST {
                self.raced.insert(request.opaque);
            }
            let path = "answer".to_owned();
            let (theirs_code, theirs) = (line.command.code, Some(format!("code {}", line.command.code)));
            let missing = Difference { request: request.code, theirs_code, path, theirs, ours: None };
            return self.found.push(missing);
        };
        self.learn(&request, line, &ours);
        let answers =
            Answers { request: &request, theirs: &line.command, known_len: line.body_known_len, ours: &ours };
        let found = differences(&answers);
        let others = found.into_iter().filter(|difference| !self.is_same_place(difference));
        let others: Vec<_> = others.collect();
        self.found.extend(others);
    }

    /// The records of both answers tell which of our places is which of theirs.
    fn learn(&mut self, request: &Command, line: &Line, ours: &Command) {
        if !matches!(
            request.code,
            request::PULL_MESSAGE | request::VIEW_MESSAGE_BY_ID | request::QUERY_MESSAGE
        ) {
            return self.learn_ids(&line.command, ours);
        }
        let theirs = records(&line.command.body[..line.body_known_len]).map_while(Result::ok);
        for (theirs, ours) in theirs.zip(records(&ours.body).map_while(Result::ok)) {
            self.learn_record(&theirs, &ours);
        }
    }

    fn learn_record(&mut self, theirs: &StoredMessage<'_>, ours: &StoredMessage<'_>) {
        self.places.entry(theirs.commitlog_offset).or_insert(ours.commitlog_offset);
        self.times.entry(theirs.store_timestamp_ms).or_insert(ours.store_timestamp_ms);
    }

    fn learn_ids(&mut self, theirs: &Command, ours: &Command) {
        let ids = |command: &Command| -> Vec<u64> {
            let ids = command.field("msgId").unwrap_or_default();
            ids.split(',')
                .filter_map(|id| OffsetMessageId::parse(id).ok())
                .map(|id| id.commitlog_offset)
                .collect()
        };
        for (theirs, ours) in ids(theirs).into_iter().zip(ids(ours)) {
            self.places.entry(theirs).or_insert(ours);
        }
    }

    /// The same record under our place, or our time, is the same.
    fn is_same_place(&self, difference: &Difference) -> bool {
        let (Some(theirs), Some(ours)) = (&difference.theirs, &difference.ours) else { return false };
        let same_id = |theirs: &str, ours: &str| {
            let (Ok(theirs), Ok(ours)) = (OffsetMessageId::parse(theirs), OffsetMessageId::parse(ours))
            else {
                return false;
            };
            ours.host == self.addresses.broker
                && self.places.get(&theirs.commitlog_offset) == Some(&ours.commitlog_offset)
        };
        let same_number = |known: Option<String>| known.as_ref() == Some(ours);
        match difference.path.as_str() {
            "ext.msgId" => {
                let (theirs, ours): (Vec<_>, Vec<_>) =
                    (theirs.split(',').collect(), ours.split(',').collect());
                theirs.len() == ours.len()
                    && theirs.iter().zip(&ours).all(|(theirs, ours)| same_id(theirs, ours))
            }
            "body[].commitLogOffset" => {
                let known = theirs.parse().ok().and_then(|place: u64| self.places.get(&place));
                same_number(known.map(u64::to_string))
            }
            "body[].storeTimestamp" | "ext.timestamp" => {
                let known = theirs.parse().ok().and_then(|time: i64| self.times.get(&time));
                same_number(known.map(i64::to_string))
            }
            _ => false,
        }
    }

    fn broker_says(&mut self, line: &Line) {
        let group = line.command.field("consumerGroup").unwrap_or_default().to_owned();
        let code = line.command.code;
        let fits = |command: &Command| {
            !command.is_response() && command.code == code && command.field("consumerGroup") == Some(&group)
        };
        if self.client(line.connection, line.server).take(PATIENCE, fits).is_none() {
            let path = format!("to client {code}");
            let theirs = Some(group);
            self.found.push(Difference { request: code, theirs_code: -1, path, theirs, ours: None });
        }
    }

    /// Frames the real broker did not send.
    fn nothing_else_was_said(&mut self, answered: &BTreeSet<u64>) {
        let held: BTreeSet<i32> = self
            .requests
            .iter()
            .filter(|(number, command)| !answered.contains(number) && !command.is_oneway())
            .map(|(_, command)| command.opaque)
            .collect();
        for client in self.clients.values_mut() {
            for command in client.rest() {
                let path = match command.is_response() {
                    true if held.contains(&command.opaque) => "answer to a request left open".to_owned(),
                    true if self.raced.contains(&command.opaque) => "late answer to a raced pull".to_owned(),
                    true => "answer".to_owned(),
                    false => format!("to client {}", command.code),
                };
                let ours = Some(format!("code {} {:?}", command.code, command.remark));
                self.found.push(Difference { request: 0, theirs_code: -1, path, theirs: None, ours });
            }
        }
    }

    fn bring_about(&mut self, given: &Given) {
        let mut admin = Client::connect(self.addresses.broker);
        for (topic, (read_queues, write_queues, perm)) in &given.topics {
            // messages need a topic that can be written, whatever it becomes
            make_topic(&mut admin, topic, (*read_queues, *write_queues, perm | 2));
        }
        for group in &given.groups {
            join_and_leave(&mut admin, group, given);
        }
        for (group, shown) in &given.members {
            let mut member = Client::connect(self.addresses.broker);
            join(&mut member, group, shown);
            self.before.push(member);
        }
        if !given.minimums.is_empty() {
            return expire(&mut admin, given);
        }
        let mut lengths = BTreeMap::new();
        for message in given.messages.values() {
            let next = lengths.entry(message.queue.clone()).or_default();
            if message.queue_offset < given.lengths.get(&message.queue).copied().unwrap_or_default() {
                fill(&mut admin, &message.queue, *next..message.queue_offset);
                *next = message.queue_offset + 1;
                self.send_before(&mut admin, message);
            }
        }
        for (queue, length) in &given.lengths {
            fill(&mut admin, queue, lengths.get(queue).copied().unwrap_or_default()..*length);
        }
        for ((group, topic, queue_id), offset) in &given.positions {
            let commit = Command::request(request::UPDATE_CONSUMER_OFFSET, 1)
                .with_field("consumerGroup", group)
                .with_field("topic", topic)
                .with_field("queueId", i64::from(*queue_id))
                .with_field("commitOffset", offset);
            succeeds(&mut admin, &commit);
        }
        for (topic, (read_queues, write_queues, perm)) in &given.topics {
            if perm & 2 == 0 {
                make_topic(&mut admin, topic, (*read_queues, *write_queues, *perm));
            }
        }
    }

    fn send_before(&mut self, admin: &mut Client, message: &Message) {
        let command = send_to(&message.queue)
            .with_field("sysFlag", message.sys_flag)
            .with_field("bornTimestamp", message.born_timestamp_ms)
            .with_field("flag", message.flag)
            .with_field("properties", &message.properties)
            .with_body(message.body.clone());
        let answer = succeeds(admin, &command);
        let at = message.queue_offset.to_string();
        assert_eq!(answer.field("queueOffset"), Some(at.as_str()), "{message:?}");
        let place = OffsetMessageId::parse(answer.field("msgId").unwrap()).unwrap().commitlog_offset;
        self.places.insert(message.commitlog_offset, place);
        let view = Command::request(request::VIEW_MESSAGE_BY_ID, 1).with_field("offset", place);
        let record = succeeds(admin, &view).body;
        let (ours, _) = StoredMessage::decode(&record).unwrap();
        self.times.insert(message.store_timestamp_ms, ours.store_timestamp_ms);
        // searched by time, two of one millisecond would be one
        #[expect(clippy::disallowed_methods, reason = "a test waits in real time")]
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Messages of which 17 fill a segment of 1 MiB, in turn to each queue, until retention has taken the first ones.
fn expire(admin: &mut Client, given: &Given) {
    const BODY_BYTES: usize = 60_000;
    let topics: BTreeSet<&String> = given.minimums.keys().map(|(topic, _)| topic).collect();
    let queues = topics.into_iter().flat_map(|topic| {
        let queues = given.topics.get(topic).map_or(1, |(read_queues, ..)| *read_queues);
        (0..queues).map(|queue_id| (topic.clone(), queue_id))
    });
    // the queue that lost more was sent to first; of one nobody looked at nothing is known
    let mut queues: Vec<(Queue, u64)> = queues
        .map(|queue| (queue.clone(), given.minimums.get(&queue).copied().unwrap_or_default()))
        .collect();
    queues.sort_by_key(|(_, min)| std::cmp::Reverse(*min));
    let longest = given.lengths.values().max().copied().unwrap_or_default();
    for _ in 0..longest {
        for (queue, _) in &queues {
            let command = send_to(queue)
                .with_field("sysFlag", 0)
                .with_field("bornTimestamp", 1)
                .with_field("flag", 0)
                .with_body(vec![b'x'; BODY_BYTES]);
            succeeds(admin, &command);
        }
    }
    for ((topic, queue_id), min) in &queues {
        let ask = Command::request(request::GET_MIN_OFFSET, 1)
            .with_field("topic", topic)
            .with_field("queueId", i64::from(*queue_id));
        let has_expired = |admin: &mut Client| {
            let answer = succeeds(admin, &ask);
            answer.field("offset").unwrap().parse::<u64>().unwrap() >= *min
        };
        for _ in 0..100 {
            if has_expired(admin) {
                break;
            }
            #[expect(clippy::disallowed_methods, reason = "a test waits in real time")]
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Messages nobody looks at, so that the next one has its offset.
fn fill(admin: &mut Client, queue: &Queue, offsets: std::ops::Range<u64>) {
    for offset in offsets {
        let command = send_to(queue)
            .with_field("sysFlag", 0)
            .with_field("bornTimestamp", 1)
            .with_field("flag", 0)
            .with_field("properties", "KEYS\u{1}filler")
            .with_body("filler");
        let at = offset.to_string();
        assert_eq!(succeeds(admin, &command).field("queueOffset"), Some(at.as_str()), "{queue:?}");
    }
}

fn send_to((topic, queue_id): &Queue) -> Command {
    Command::request(request::SEND_MESSAGE, 1)
        .with_field("producerGroup", "before")
        .with_field("topic", topic)
        .with_field("defaultTopic", "none")
        .with_field("defaultTopicQueueNums", 4)
        .with_field("queueId", i64::from(*queue_id))
        .with_field("reconsumeTimes", 0)
}

fn replace(mut command: Command, name: &str, with: impl Fn(&str) -> Option<String>) -> Command {
    let old = command.fields.take().unwrap_or_default();
    let mut fields = Fields::new();
    for (field, value) in old.iter() {
        match with(value).filter(|_| field == name) {
            Some(new) => fields.push(field, new),
            None => fields.push(field, value),
        }
    }
    command.fields = Some(fields);
    command
}

fn succeeds(client: &mut Client, command: &Command) -> Command {
    let answer = client.ask(command);
    assert_eq!(answer.code, 0, "{} {:?}: {:?}", command.code_name(), command.fields, answer.remark);
    answer
}

fn make_topic(client: &mut Client, topic: &str, (read_queues, write_queues, perm): (u32, u32, u32)) {
    let make = Command::request(request::UPDATE_AND_CREATE_TOPIC, 1)
        .with_field("topic", topic)
        .with_field("defaultTopic", "TBW102")
        .with_field("readQueueNums", i64::from(read_queues))
        .with_field("writeQueueNums", i64::from(write_queues))
        .with_field("perm", i64::from(perm))
        .with_field("topicFilterType", "SINGLE_TAG")
        .with_field("topicSysFlag", 0)
        .with_field("order", false);
    succeeds(client, &make);
}

/// A member as an answer to 203 shows it, who stays.
fn join(client: &mut Client, group: &str, shown: &Value) {
    let subscriptions: Vec<&Value> = shown["subscriptionTable"].as_object().unwrap().values().collect();
    let body = serde_json::json!({
        "clientID": shown["connectionSet"][0]["clientId"],
        "consumerDataSet": [{
            "consumeFromWhere": shown["consumeFromWhere"],
            "consumeType": shown["consumeType"],
            "groupName": group,
            "messageModel": shown["messageModel"],
            "subscriptionDataSet": subscriptions,
            "unitMode": false,
        }],
        "producerDataSet": [],
    });
    succeeds(client, &Command::request(request::HEART_BEAT, 1).with_body(body.to_string()));
}

/// Makes a group known by a member that comes and goes.
fn join_and_leave(client: &mut Client, group: &str, given: &Given) {
    let topics = given.positions.keys().filter(|(of, _, _)| of == group).map(|(_, topic, _)| topic.clone());
    let topics: BTreeSet<String> = topics.chain([wire::name::retry_topic(group)]).collect();
    let subscription = |topic: &String| {
        format!(r#"{{"expressionType":"TAG","subString":"*","subVersion":1,"topic":"{topic}"}}"#)
    };
    let subscriptions: Vec<String> = topics.iter().map(subscription).collect();
    let body = format!(
        r#"{{"clientID":"before@{group}","consumerDataSet":[{{"consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET","consumeType":"CONSUME_PASSIVELY","groupName":"{group}","messageModel":"CLUSTERING","subscriptionDataSet":[{}],"unitMode":false}}],"producerDataSet":[]}}"#,
        subscriptions.join(",")
    );
    succeeds(client, &Command::request(request::HEART_BEAT, 1).with_body(body));
    let leave = Command::request(request::UNREGISTER_CLIENT, 1)
        .with_field("clientID", format!("before@{group}"))
        .with_field("consumerGroup", group);
    succeeds(client, &leave);
}
