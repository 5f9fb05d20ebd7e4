//! Transactions: the end of a half message (37) and the question how it ended (39).
//!
//! Owns: their fields. Called by: the edge.

use super::{FieldReader, RequestError};
use crate::{code::request, command::Command, sys_flag::TransactionType};

/// `EndTransactionRequestHeader`, code 37, one-way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndTransaction<'a> {
    pub producer_group: &'a str,
    /// Queue offset in the half topic.
    pub tran_state_table_offset: i64,
    /// Of the half message; from a client, so to be checked.
    pub commitlog_offset: i64,
    pub outcome: TransactionOutcome,
    pub from_transaction_check: bool,
    pub msg_id: Option<&'a str>,
    pub transaction_id: Option<&'a str>,
    pub topic: Option<&'a str>,
}

/// `commitOrRollback`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionOutcome {
    Commit,
    Rollback,
    /// Ask again later.
    Unknown,
}

impl TransactionOutcome {
    fn from_bits(bits: i32) -> Option<TransactionOutcome> {
        match bits {
            8 => Some(TransactionOutcome::Commit),
            12 => Some(TransactionOutcome::Rollback),
            0 => Some(TransactionOutcome::Unknown),
            _ => None,
        }
    }

    pub fn transaction_type(self) -> TransactionType {
        match self {
            TransactionOutcome::Commit => TransactionType::Commit,
            TransactionOutcome::Rollback => TransactionType::Rollback,
            TransactionOutcome::Unknown => TransactionType::None,
        }
    }
}

impl<'a> EndTransaction<'a> {
    pub fn decode(command: &'a Command) -> Result<EndTransaction<'a>, RequestError> {
        let fields = FieldReader::new(command);
        let outcome = fields.number("commitOrRollback")?;
        Ok(EndTransaction {
            producer_group: fields.text("producerGroup")?,
            tran_state_table_offset: fields.number("tranStateTableOffset")?,
            commitlog_offset: fields.number("commitLogOffset")?,
            outcome: TransactionOutcome::from_bits(outcome)
                .ok_or_else(|| fields.invalid("commitOrRollback", &outcome.to_string()))?,
            from_transaction_check: fields.boolean("fromTransactionCheck"),
            msg_id: fields.optional("msgId"),
            transaction_id: fields.optional("transactionId"),
            topic: fields.optional("topic"),
        })
    }
}

/// `CheckTransactionStateRequestHeader`, code 39, broker to client, one-way; the body is the half message's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckTransactionState<'a> {
    pub commitlog_offset: u64,
    pub tran_state_table_offset: u64,
    /// The unique key.
    pub msg_id: &'a str,
    pub transaction_id: &'a str,
    pub offset_msg_id: &'a str,
}

impl CheckTransactionState<'_> {
    pub fn encode(&self, opaque: i32) -> Command {
        Command::oneway(request::CHECK_TRANSACTION_STATE, opaque)
            .with_field("commitLogOffset", self.commitlog_offset)
            .with_field("msgId", self.msg_id)
            .with_field("tranStateTableOffset", self.tran_state_table_offset)
            .with_field("offsetMsgId", self.offset_msg_id)
            .with_field("transactionId", self.transaction_id)
    }
}
