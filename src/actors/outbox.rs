//! What one connection has not written yet; exists only while there is something.
//!
//! - Owns: slices shared with other receivers, and bytes of this receiver alone, in order.
//! - Takes: ranges of shared chunks, and bytes written in place. Gives: slices for one vectored write.
//! - Bound: the link asks [`Outbox::has_room`] first; a blocked outbox copies what it shares once, so
//!   that a slow reader never pins buffers of others (BOUNDED).
//!
//! ```text
//! segments:  [shared chunk 3..900] [own 0..54] [shared chunk 900..1500] ...
//! blocked:   [own 0..n]                  every later push is copied behind it
//! ```

use std::io::IoSlice;

use bytes::{Buf as _, Bytes, BytesMut};
use smallvec::SmallVec;

use crate::limits;

/// Most slices in one write.
pub const WRITE_SLICES_MAX: usize = 64;

/// Own bytes that were written are cut off the front once there are so many of them.
const COMPACT_BYTES: u32 = 32 * 1024;

/// A run of bytes: of a chunk shared with others, or of the outbox's own buffer.
#[derive(Debug)]
struct Segment {
    shared: Option<Bytes>,
    start: u32,
    end: u32,
    /// Whole messages in it; scaled down as bytes leave.
    messages: u32,
}

/// Unsent output of one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    segments: SmallVec<[Segment; 2]>,
    own: BytesMut,
    /// Index of the first segment that has unsent bytes.
    first: usize,
    bytes: usize,
    messages: u32,
    blocked: bool,
}

impl Outbox {
    /// Returns the bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns about how many deliveries wait (exact until a gathered run is written in part).
    #[must_use]
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// Tells whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Tells whether one more delivery of `bytes` stays inside the limits; an empty outbox takes
    /// any single one.
    #[must_use]
    pub fn has_room(&self, bytes: usize, messages_max: u32, bytes_max: u32) -> bool {
        self.is_empty()
            || (self.messages < messages_max && self.bytes + bytes <= bytes_max as usize)
    }

    /// Appends `start..end` of a chunk that others use too. Runs of one chunk that follow each other
    /// become one segment.
    pub fn push_shared(&mut self, chunk: &Bytes, start: u32, end: u32, messages: u32) {
        debug_assert!(start <= end && end as usize <= chunk.len());
        if start == end {
            return;
        }
        if self.blocked {
            self.write_own(messages, |own| {
                own.extend_from_slice(&chunk[start as usize..end as usize]);
            });
            return;
        }
        self.bytes += (end - start) as usize;
        self.messages += messages;
        if let Some(last) = self.segments.last_mut()
            && last.end == start
            && last.shared.as_ref().is_some_and(|shared| shared.as_ptr() == chunk.as_ptr())
        {
            last.end = end;
            last.messages += messages;
            return;
        }
        self.segments.push(Segment { shared: Some(chunk.clone()), start, end, messages });
    }

    /// Lets `write` append to the outbox's own buffer.
    pub fn write_own<T>(&mut self, messages: u32, write: impl FnOnce(&mut BytesMut) -> T) -> T {
        let start = self.own.len();
        let out = write(&mut self.own);
        let end = self.own.len();
        debug_assert!(end >= start);
        if end == start {
            return out;
        }
        self.bytes += end - start;
        self.messages += messages;
        let (start, end) = (small(start), small(end));
        match self.segments.last_mut() {
            Some(last) if last.shared.is_none() && last.end == start => {
                last.end = end;
                last.messages += messages;
            }
            _ => self.segments.push(Segment { shared: None, start, end, messages }),
        }
        out
    }

    /// Fills `slices` with what waits, oldest first.
    pub fn slices<'a>(&'a self, slices: &mut SmallVec<[IoSlice<'a>; WRITE_SLICES_MAX]>) {
        for segment in self.segments.iter().skip(self.first).take(WRITE_SLICES_MAX) {
            let range = segment.start as usize..segment.end as usize;
            let bytes = segment.shared.as_ref().map_or(&self.own[..], |shared| &shared[..]);
            slices.push(IoSlice::new(&bytes[range]));
        }
    }

    /// Takes `count` written bytes off the front.
    pub fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.bytes);
        let mut left = count.min(self.bytes);
        self.bytes -= left;
        while left > 0 {
            let Some(segment) = self.segments.get_mut(self.first) else { break };
            let length = (segment.end - segment.start) as usize;
            if left >= length {
                left -= length;
                self.messages -= segment.messages;
                segment.shared = None;
                self.first += 1;
            } else {
                segment.start += small(left);
                let kept = u64::from(segment.messages) * (length - left) as u64;
                let kept = u32::try_from(kept.div_ceil(length as u64)).unwrap_or(u32::MAX);
                self.messages -= segment.messages - kept;
                segment.messages = kept;
                left = 0;
            }
        }
        self.compact();
    }

    /// Returns the bytes that an empty outbox costs.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.own.capacity()
    }

    /// Makes the outbox ready for another connection.
    pub fn reset(&mut self) {
        self.segments.clear();
        if self.segments.spilled() {
            self.segments.shrink_to_fit();
        }
        if self.own.capacity() > limits::POOLED_BUFFER_BYTES_MAX {
            self.own = BytesMut::new();
        }
        self.own.clear();
        self.first = 0;
        self.bytes = 0;
        self.messages = 0;
        self.blocked = false;
    }

    /// The socket takes no more: copies what is shared, so that nobody else's buffer is held.
    pub fn block(&mut self) {
        if self.blocked {
            return;
        }
        self.blocked = true;
        let mut own = BytesMut::with_capacity(self.bytes);
        for segment in self.segments.iter().skip(self.first) {
            let bytes = segment.shared.as_ref().map_or(&self.own[..], |shared| &shared[..]);
            own.extend_from_slice(&bytes[segment.start as usize..segment.end as usize]);
        }
        let end = small(own.len());
        self.own = own;
        self.segments.clear();
        self.first = 0;
        if end > 0 {
            let messages = self.messages;
            self.segments.push(Segment { shared: None, start: 0, end, messages });
        }
    }

    /// Frees what was written: everything at the end, or the front of a long own run.
    fn compact(&mut self) {
        if self.first == self.segments.len() {
            self.segments.clear();
            self.first = 0;
            self.own.clear();
            self.messages = 0;
            return;
        }
        let [segment] = &mut self.segments[self.first..] else { return };
        if segment.shared.is_none() && segment.start >= COMPACT_BYTES {
            self.own.advance(segment.start as usize);
            segment.end -= segment.start;
            segment.start = 0;
        }
    }
}

/// Offsets are `u32`: outboxes are bounded far below 4 GiB.
fn small(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(outbox: &Outbox) -> Vec<u8> {
        let mut slices = SmallVec::new();
        outbox.slices(&mut slices);
        slices.iter().flat_map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn runs_of_one_chunk_pushed_in_order_become_one_slice() {
        let chunk = Bytes::from_static(b"aabbcc");
        let mut outbox = Outbox::default();
        outbox.push_shared(&chunk, 0, 2, 1);
        outbox.push_shared(&chunk, 2, 6, 2);
        assert_eq!((outbox.segments.len(), outbox.messages(), outbox.bytes()), (1, 3, 6));
        outbox.push_shared(&chunk, 0, 2, 1);
        assert_eq!(outbox.segments.len(), 2);
        assert_eq!(content(&outbox), b"aabbccaa");
    }

    #[test]
    fn own_and_shared_bytes_keep_their_order() {
        let chunk = Bytes::from_static(b"123456");
        let mut outbox = Outbox::default();
        outbox.write_own(1, |own| own.extend_from_slice(b"ab"));
        outbox.push_shared(&chunk, 1, 3, 1);
        outbox.write_own(1, |own| own.extend_from_slice(b"cd"));
        outbox.write_own(0, |own| own.extend_from_slice(b"ef"));
        assert_eq!(content(&outbox), b"ab23cdef");
        assert_eq!(outbox.messages(), 3);
    }

    #[test]
    fn advance_over_every_cut_leaves_the_rest() {
        for cut in 0..=8 {
            let mut outbox = Outbox::default();
            outbox.write_own(1, |own| own.extend_from_slice(b"ab"));
            outbox.push_shared(&Bytes::from_static(b"cdef"), 0, 4, 2);
            outbox.write_own(1, |own| own.extend_from_slice(b"gh"));
            outbox.advance(cut);
            assert_eq!(content(&outbox), &b"abcdefgh"[cut..]);
            assert_eq!(outbox.bytes(), 8 - cut);
            assert_eq!(outbox.is_empty(), cut == 8);
            assert_eq!(outbox.messages() == 0, cut == 8);
        }
    }

    #[test]
    fn block_lets_go_of_shared_chunks_and_copies_later_ones() {
        let chunk = Bytes::from(vec![b'x'; 100]);
        let mut outbox = Outbox::default();
        outbox.push_shared(&chunk, 0, 50, 1);
        outbox.write_own(1, |own| own.extend_from_slice(b"me"));
        outbox.advance(10);
        outbox.block();
        outbox.push_shared(&chunk, 50, 60, 1);
        assert!(chunk.is_unique());
        assert_eq!(outbox.bytes(), 52);
        assert_eq!(content(&outbox), [&[b'x'; 40][..], b"me", &[b'x'; 10]].concat());
    }

    #[test]
    fn blocked_outbox_written_slowly_stays_small() {
        let mut outbox = Outbox::default();
        outbox.block();
        for _ in 0..10_000 {
            outbox.push_shared(&Bytes::from(vec![7; 100]), 0, 100, 1);
            outbox.write_own(1, |own| own.extend_from_slice(&[8; 100]));
            let before = outbox.bytes();
            outbox.advance(if before > 50_000 { 200 } else { 100 });
        }
        assert!(outbox.own.capacity() < 400_000, "{}", outbox.own.capacity());
    }

    #[test]
    fn room_is_refused_over_messages_or_bytes_but_never_to_the_first() {
        let mut outbox = Outbox::default();
        assert!(outbox.has_room(5_000, 2, 1_000));
        outbox.write_own(1, |own| own.extend_from_slice(&[0; 900]));
        assert!(outbox.has_room(100, 2, 1_000));
        assert!(!outbox.has_room(101, 2, 1_000));
        outbox.write_own(1, |own| own.extend_from_slice(&[0; 10]));
        assert!(!outbox.has_room(1, 2, 1_000));
    }
}
