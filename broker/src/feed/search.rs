//! Owns the questions about single messages: converts what the core finds into places. "Not found" is only an answer together
//! with a position: it speaks of frames up to there, so the position is taken before the search.

use super::{FeedError, FeedHandle};
use crate::api::{Answer, FoundMessage, Refusal};
use crate::core::{Core, Found};
use lifecycle::identity::{Lineage, MessageIdentity};
use lifecycle::position::Position;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use wire::ids::OffsetMessageId;
use wire::message::StoredMessage;
use wire::properties;

/// Places of an answer when the question does not say.
pub(super) const PLACES_DEFAULT: usize = 64;
/// Most places of one answer; the core finds more, so that a cut is noticed.
pub(super) const PLACES_MAX: usize = 128;

/// Which messages to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocateQuery {
    /// By id or by key.
    pub what: LocateBy,
    /// Empty: any topic (ids only).
    pub topic: String,
    /// At most so many places; 0: 64. Never more than 128.
    pub limit: u32,
}

/// The two ways to find a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocateBy {
    /// The client's id, or an offset message id.
    Id(String),
    /// One of the message's keys.
    Key(String),
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Located {
    /// Where messages are stored, copies included.
    pub places: Vec<Place>,
    /// Every frame up to here was considered.
    pub as_of: Position,
    /// Whether these are all places.
    pub complete: bool,
}

/// Where a message is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Which message.
    pub identity: MessageIdentity,
    /// Its topic's name.
    pub topic: String,
    /// First byte in the commit log.
    pub commitlog_offset: u64,
    /// When it was stored, broker wall ms.
    pub store_wall_ms: u64,
    /// When it was sent, producer wall ms.
    pub born_wall_ms: u64,
    /// Size of its body as stored.
    pub body_bytes: u32,
    /// The client's id, empty when it has none.
    pub unique_id: String,
    /// Keys, separated by spaces.
    pub keys: String,
    /// Tag.
    pub tags: String,
    /// Where the copy comes from; `None`: sent by a client.
    pub lineage: Option<Lineage>,
}

/// What is stored under an identity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspected {
    /// Where.
    pub place: Place,
    /// SHA-256 of the body as stored.
    pub body_sha256: Vec<u8>,
    /// Why it cannot be read although it should be there; empty: it can.
    pub damage: String,
    /// Addresses of the brokers that hold it.
    pub hosts: Vec<String>,
    /// Copies that name it as their parent.
    pub copies: Vec<Place>,
    /// The message's properties.
    pub properties: Vec<(String, String)>,
}

pub(super) async fn locate(feed: &FeedHandle, query: LocateQuery) -> Result<Located, FeedError> {
    let limit = match query.limit as usize {
        0 => PLACES_DEFAULT,
        asked => asked.min(PLACES_MAX),
    };
    let (as_of, found) = match query.what {
        LocateBy::Id(id) if id.is_empty() => return Err(FeedError::Invalid("an id is needed")),
        LocateBy::Key(key) if key.is_empty() => return Err(FeedError::Invalid("a key is needed")),
        LocateBy::Id(id) => feed.look(move |core, _| (core.journal_head().0, by_id(core, &id))).await?,
        LocateBy::Key(_) if query.topic.is_empty() => {
            return Err(FeedError::Invalid("a key is looked up within a topic"));
        }
        LocateBy::Key(key) => {
            let topic = query.topic.clone();
            feed.look(move |core, _| (core.journal_head().0, core.locate_key(&topic, &key))).await?
        }
    };
    let mut complete = true;
    let found = match found {
        Ok(found) => found,
        // a part cannot be read: whether there are more is not known
        Err(Refusal::StorageFailed(error)) => {
            tracing::warn!(%error, "search is not complete");
            complete = false;
            Found::default()
        }
        Err(refusal) => return Err(refusal.into()),
    };
    complete &= found.complete;
    let mut seen = BTreeSet::new();
    let mut places: Vec<Place> = found
        .messages
        .iter()
        .filter_map(place)
        .filter(|place| query.topic.is_empty() || place.topic == query.topic)
        .filter(|place| seen.insert(place.identity))
        .collect();
    complete &= places.len() <= limit;
    places.truncate(limit);
    Ok(Located { places, as_of, complete })
}

/// By client id or by offset id. Any 32 hex digits are both, so a place found by its offset must also be on the named host.
fn by_id(core: &mut Core, id: &str) -> Answer<Found> {
    let mut found = core.locate(id)?;
    let offset_id = OffsetMessageId::parse(id).ok();
    found.messages.retain(|found| {
        StoredMessage::decode(&found.record).is_ok_and(|(message, _)| {
            let by_offset = offset_id.is_some_and(|id| {
                id.commitlog_offset == found.commitlog_offset && id.host == message.store_host
            });
            by_offset || message.properties.get(properties::UNIQ_KEY) == Some(id)
        })
    });
    Ok(found)
}

pub(super) async fn inspect(
    feed: &FeedHandle,
    identity: MessageIdentity,
) -> Result<Option<Inspected>, FeedError> {
    let looked = feed.look(move |core, _| look_at(core, identity)).await?;
    let (found, copies) = match looked {
        Looked::Found(found, copies) => (found, copies),
        Looked::Damaged { topic, damage } => {
            let place = Place { identity, topic, ..Place::default() };
            return Ok(Some(Inspected { place, damage, ..Inspected::default() }));
        }
        Looked::Nothing => return Ok(None),
    };
    let (Some(place), Ok((message, _))) = (place(&found), StoredMessage::decode(&found.record)) else {
        return Ok(None);
    };
    let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let damage = match message.body_is_intact() {
        true => String::new(),
        false => "the body's checksum does not match".to_owned(),
    };
    Ok(Some(Inspected {
        body_sha256: Sha256::digest(message.body).to_vec(),
        damage,
        hosts: vec![message.store_host.to_string()],
        copies: copies.iter().filter_map(self::place).collect(),
        properties: message.properties.iter().map(text).collect(),
        place,
    }))
}

enum Looked {
    Found(FoundMessage, Vec<FoundMessage>),
    Damaged { topic: String, damage: String },
    Nothing,
}

fn look_at(core: &mut Core, identity: MessageIdentity) -> Looked {
    match core.inspect(identity) {
        Ok(Some(found)) => {
            let copies = copies_of(core, &found);
            Looked::Found(found, copies)
        }
        Err(refusal) => damaged(core, identity, refusal.to_string()),
        Ok(None) => {
            // another epoch's message may be there; only when none is, the record itself is the trouble
            let any = MessageIdentity { epoch_number: 0, ..identity };
            let bounds = core.state_view().bounds(identity.queue);
            let kept = (bounds.min_offset..bounds.max_offset).contains(&identity.queue_offset);
            match kept && matches!(core.inspect(any), Ok(None)) {
                true => damaged(core, identity, "the record cannot be read".to_owned()),
                false => Looked::Nothing,
            }
        }
    }
}

fn damaged(core: &Core, identity: MessageIdentity, damage: String) -> Looked {
    match core.state_view().topic_of(identity.queue.topic) {
        Some(topic) => Looked::Damaged { topic: topic.config.name.to_string(), damage },
        None => Looked::Nothing,
    }
}

/// Copies keep the id of the message they were made of, so they are found by it.
fn copies_of(core: &mut Core, parent: &FoundMessage) -> Vec<FoundMessage> {
    let id = StoredMessage::decode(&parent.record)
        .ok()
        .and_then(|(message, _)| message.properties.get(properties::UNIQ_KEY).map(str::to_owned));
    let found = id.map(|id| core.locate(&id).unwrap_or_default().messages).unwrap_or_default();
    let is_copy = |found: &FoundMessage| found.lineage.is_some_and(|l| l.parent == parent.identity);
    found.into_iter().filter(is_copy).take(PLACES_MAX).collect()
}

fn place(found: &FoundMessage) -> Option<Place> {
    let (message, _) = StoredMessage::decode(&found.record).ok()?;
    let property = |name| message.properties.get(name).unwrap_or_default().to_owned();
    Some(Place {
        identity: found.identity,
        topic: found.topic.to_string(),
        commitlog_offset: found.commitlog_offset,
        store_wall_ms: u64::try_from(message.store_timestamp_ms).unwrap_or(0),
        born_wall_ms: u64::try_from(message.born_timestamp_ms).unwrap_or(0),
        body_bytes: u32::try_from(message.body.len()).unwrap_or(u32::MAX),
        unique_id: property(properties::UNIQ_KEY),
        keys: property(properties::KEYS),
        tags: property(properties::TAGS),
        lineage: found.lineage,
    })
}
