//! What waits for one shard, and how much of it goes into a batch.
//!
//! - Owns: the commands that no proposal has taken yet, each with who asked.
//! - Gives: batches in the order of submission.
//! - Bound: the appender's; `limits::APPEND_BATCH_BYTES_MAX` and `limits::APPEND_BATCH_COMMANDS_MAX` per batch.

use std::mem;

use hongqiao_cluster::Order;
use tokio::sync::oneshot;

use super::SubmitError;
use crate::{
    actors::line::Line,
    limits,
    model::message::Message as Published,
    shard::command::{Command, Reply},
};

/// Who waits for the reply to a command.
pub(super) struct Asker {
    pub(super) answer: oneshot::Sender<Result<Reply, SubmitError>>,
    pub(super) line: Option<Line>,
}

impl Asker {
    /// Tells that there is none. What its publisher sends before it has heard goes nowhere.
    pub(super) fn fail(self, error: SubmitError) {
        if let Some(line) = self.line {
            line.cut(error);
        }
        let _ = self.answer.send(Err(error));
    }
}

/// What waits for one shard.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) commands: Vec<Command>,
    pub(super) askers: Vec<Asker>,
    pub(super) waiting_bytes: usize,
    pub(super) proposals: usize,
    /// Commands of these.
    pub(super) proposed: usize,
    /// Of the last one, while it has no outcome.
    pub(super) order: Option<Order>,
    pub(super) marked: bool,
}

impl Queue {
    /// Tells whether a batch may go out now. Behind another one only if it has no fewer commands: under load
    /// batches grow, which costs less than more of them; with little to do the next one need not wait.
    pub(super) fn may_propose(&self) -> bool {
        self.proposals < limits::APPEND_PROPOSALS_MAX
            && !self.commands.is_empty()
            && self.commands.len() >= self.proposed
    }

    /// Takes commands from the front until a batch is full.
    pub(super) fn take_batch(&mut self) -> (Vec<Command>, Vec<Asker>) {
        let mut bytes = 0;
        let full = self.commands.iter().position(|command| {
            bytes += bytes_of(command);
            bytes > limits::APPEND_BATCH_BYTES_MAX
        });
        let count = full
            .unwrap_or(self.commands.len())
            .clamp(1, limits::APPEND_BATCH_COMMANDS_MAX)
            .min(self.commands.len());
        let rest = self.commands.split_off(count);
        let commands = mem::replace(&mut self.commands, rest);
        let rest = self.askers.split_off(count);
        let askers = mem::replace(&mut self.askers, rest);
        self.waiting_bytes -= commands.iter().map(bytes_of).sum::<usize>();
        (commands, askers)
    }
}

/// Estimates how many bytes a command takes in a batch.
pub(super) fn bytes_of(command: &Command) -> usize {
    const FIXED: usize = 128;
    let message_bytes = |message: &Published| {
        message.topic.as_bytes().len() + message.properties.len() + message.payload.len() + FIXED
    };
    match command {
        Command::Append { message, .. } | Command::Retain { message, .. } => message_bytes(message),
        Command::Enqueue { messages, .. }
        | Command::EnqueueRetained { messages, .. }
        | Command::Share { messages, .. } => {
            messages.iter().map(|message| message_bytes(message)).sum::<usize>() + FIXED
        }
        _ => FIXED,
    }
}
