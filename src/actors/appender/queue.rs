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
    limits,
    model::message::Message as Published,
    shard::command::{Command, Reply},
};

/// Takes the reply to one command.
pub(super) type Answer = oneshot::Sender<Result<Reply, SubmitError>>;

/// What waits for one shard.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) commands: Vec<Command>,
    pub(super) answers: Vec<Answer>,
    pub(super) waiting_bytes: usize,
    pub(super) proposals: usize,
    /// Of the last one, while it has no outcome.
    pub(super) order: Option<Order>,
    pub(super) marked: bool,
    /// Failures that not every publisher has heard of, and the last of them.
    pub(super) untold: u32,
    pub(super) failure: Option<SubmitError>,
}

impl Queue {
    /// Takes commands from the front until a batch is full.
    pub(super) fn take_batch(&mut self) -> (Vec<Command>, Vec<Answer>) {
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
        let rest = self.answers.split_off(count);
        let answers = mem::replace(&mut self.answers, rest);
        self.waiting_bytes -= commands.iter().map(bytes_of).sum::<usize>();
        (commands, answers)
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

/// Tells whether a publisher sends it again if it fails, and other ones behind it.
pub(super) fn is_of_publisher(command: &Command) -> bool {
    matches!(command, Command::Append { .. } | Command::Retain { .. } | Command::InBegin { .. })
}
