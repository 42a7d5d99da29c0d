//! How a peer breaks the rules of WebSocket frames, and the close code that tells it.
//!
//! - Owns: nothing. Takes: a rule. Gives: words and codes. Bound: plain values.
//! - Source: RFC 6455 §5, §7.4.1.

use crate::front::ws::utf8::NotUtf8;

/// How the peer broke the rules; nothing that follows on the socket can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// §5.2: no extension was agreed.
    #[error("a reserved bit is set")]
    ReservedBit,
    /// §5.2.
    #[error("opcode {0} is reserved")]
    ReservedOpcode(u8),
    /// §5.1.
    #[error("a frame is not masked")]
    Unmasked,
    /// §5.5.
    #[error("a control frame is fragmented")]
    ControlFragmented,
    /// §5.5.
    #[error("a control frame is longer than 125 bytes")]
    ControlTooLong,
    /// §5.2.
    #[error("a length is not written in its shortest form")]
    LengthNotMinimal,
    /// §5.2.
    #[error("the highest bit of a length is set")]
    LengthReservedBit,
    /// §5.4.
    #[error("a continuation has nothing to continue")]
    ContinuationUnexpected,
    /// §5.4.
    #[error("a message begins inside another one")]
    ContinuationMissing,
    /// §5.5.1.
    #[error("a close frame holds one byte")]
    CloseLength,
    /// §7.4.
    #[error("close code {0} must not be sent")]
    CloseCode(u16),
    /// §8.1.
    #[error("text is not UTF-8")]
    NotUtf8,
    /// `Rules::text`.
    #[error("text is not taken here")]
    Text,
    /// `Rules::frame_bytes_max`.
    #[error("a frame is longer than the limit")]
    FrameTooLong,
    /// `Rules::message_bytes_max`.
    #[error("a message is longer than the limit")]
    MessageTooLong,
}

impl Violation {
    /// Returns the code that tells the peer (§7.4.1).
    #[must_use]
    pub fn close_code(self) -> u16 {
        match self {
            Self::NotUtf8 => close_code::NOT_UTF8,
            Self::Text => close_code::UNSUPPORTED,
            Self::FrameTooLong | Self::MessageTooLong => close_code::TOO_BIG,
            _ => close_code::PROTOCOL_ERROR,
        }
    }
}

impl From<NotUtf8> for Violation {
    fn from(_: NotUtf8) -> Self {
        Self::NotUtf8
    }
}

/// Close codes that this server sends (§7.4.1).
pub mod close_code {
    /// The purpose is fulfilled.
    pub const NORMAL: u16 = 1000;
    /// The server stops.
    pub const GOING_AWAY: u16 = 1001;
    /// Framing is broken.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// A kind of data that is not taken.
    pub const UNSUPPORTED: u16 = 1003;
    /// A text that is none.
    pub const NOT_UTF8: u16 = 1007;
    /// Beyond a limit.
    pub const TOO_BIG: u16 = 1009;
}
