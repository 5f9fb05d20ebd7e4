//! Owns the list of differences between this broker's answers and a real one's that are meant, each with its reason. Whatever
//! is not listed fails the test; so does an entry for a named conversation that no longer occurs there.

use crate::compare::Difference;

/// One kind of difference.
pub(crate) struct Accepted {
    /// The conversation, or `*`: any, then it need not occur.
    pub(crate) transcript: &'static str,
    /// Request code, 0: any.
    pub(crate) request: i32,
    /// The path; `*` at its end stands for anything.
    pub(crate) path: &'static str,
    /// Narrows it down by what was said.
    pub(crate) when: fn(&Difference) -> bool,
    pub(crate) reason: &'static str,
}

impl Accepted {
    pub(crate) fn covers(&self, transcript: &str, difference: &Difference) -> bool {
        let path = match self.path.strip_suffix('*') {
            Some(prefix) => difference.path.starts_with(prefix),
            None => difference.path == self.path,
        };
        path && (self.transcript == "*" || self.transcript == transcript)
            && (self.request == 0 || self.request == difference.request)
            && (self.when)(difference)
    }
}

fn always(_: &Difference) -> bool {
    true
}

fn both(difference: &Difference) -> bool {
    difference.theirs.is_some() && difference.ours.is_some()
}

fn is_local(difference: &Difference) -> bool {
    let sides = [&difference.theirs, &difference.ours];
    let is_local = |address: &str| address.trim_matches('"').starts_with("127.0.0.1:");
    sides.into_iter().all(|side| side.as_deref().is_some_and(is_local))
}

/// Theirs, as far as it goes.
fn theirs_is(difference: &Difference, text: &str) -> bool {
    difference.theirs.as_deref() == Some(text)
}

const fn any(
    request: i32,
    path: &'static str,
    when: fn(&Difference) -> bool,
    reason: &'static str,
) -> Accepted {
    Accepted { transcript: "*", request, path, when, reason }
}

pub(crate) const ACCEPTED: &[Accepted] = &[
    any(
        0,
        "remark",
        both,
        "remarks of refusals are for people and in our own words; clients act on the code",
    ),
    any(
        17,
        "remark",
        |difference| theirs_is(difference, "not set any response code"),
        "the real broker forgets to set the code and says so; a success needs no remark",
    ),
    any(0, "body[].bornHost.port", both, "the replaying client has another local port"),
    any(203, "body.connectionSet[].clientAddr", both, "the replaying client has another local port"),
    any(0, "body[].storeHost", is_local, "our broker has another port"),
    any(105, "body.brokerDatas[].brokerAddrs.0", is_local, "our broker has another port"),
    any(106, "body.brokerAddrTable.broker-a.brokerAddrs.0", is_local, "our broker has another port"),
    any(0, "body[].storeTimestamp", both, "stored at another time"),
    any(202, "body.offsetTable.*", |d| d.path.ends_with("lastUpdateTimestamp"), "stored at another time"),
    any(208, "body.offsetTable.*", |d| d.path.ends_with("lastTimestamp"), "stored at another time"),
    any(12, "ext.indexLastUpdate*", both, "tells how far our index reaches, which holds other messages"),
    any(
        28,
        "body.table.*",
        always,
        "numbers of another run; keys of Java's thread pools and latency tables are not had",
    ),
    any(206, "body.topicList", both, "the topics of another broker, and of the clients it had"),
    any(
        11,
        "*",
        |difference| difference.theirs_code == 25,
        "their pull overtook the heartbeat that names its subscription; ours comes behind it and is answered or held",
    ),
    any(
        0,
        "late answer to a raced pull",
        always,
        "the pull theirs refused because it overtook the heartbeat was held here, beside the one the client repeated",
    ),
    any(
        14,
        "*",
        |difference| difference.theirs_code == 22,
        "the group's start was pinned at its heartbeat and is told; theirs leaves the choice to each client",
    ),
    any(
        11,
        "body[].properties.ORIGIN_MESSAGE_ID",
        both,
        "an offset id holds the broker's address and the place in its log, and ours are others",
    ),
    any(300, "*", always, "who consumes a topic is not served yet: REQUEST_CODE_NOT_SUPPORTED"),
    Accepted {
        transcript: "unknown-topic-autocreate-off",
        request: 0,
        path: "answer to a request left open",
        when: always,
        reason: "the recording ends before its last answer",
    },
    only(
        "pull-consumer",
        14,
        "*",
        "nobody declared this group or its policy, so no start is made up for it; theirs says 0 while the queue is in memory",
    ),
    only(
        "mqadmin-consumerProgress",
        208,
        "body.offsetTable.*",
        "the retry topic's start was pinned when the group was declared, so it has a row",
    ),
    only(
        "trace-consumer",
        11,
        "body[].properties.DELAY",
        "a delayed message delivered before the recording was put there without a delay",
    ),
    only(
        "trace-producer",
        310,
        "ext.queueOffset",
        "the place of a delayed message in its level's queue, where theirs had another one before",
    ),
    only(
        "trace-consumer",
        11,
        "body[].properties.WAIT",
        "kept by a broker only on messages that are delayed; see the entry before",
    ),
    Accepted {
        transcript: "push-consumer-reconsume-later",
        request: 105,
        path: "*",
        when: |difference| difference.theirs_code == 17,
        reason: "their question overtook the heartbeat that makes the retry topic",
    },
    only("send-status-flush-slave-timeout", 310, "code", NO_REPLICAS),
    only("send-status-flush-slave-timeout", 105, "body.brokerDatas[].brokerAddrs.1", NO_REPLICAS),
    only("send-status-slave-not-available", 310, "code", NO_REPLICAS),
    only(
        "unknown-group-autocreate-off",
        14,
        "*",
        "a group that does not exist has no offset, so none is made up; theirs says 0 while the queue is in memory",
    ),
];

const NO_REPLICAS: &str = "there are no replicas yet, so none is promised and SEND_OK is the truth";

const fn only(transcript: &'static str, request: i32, path: &'static str, reason: &'static str) -> Accepted {
    Accepted { transcript, request, path, when: always, reason }
}
