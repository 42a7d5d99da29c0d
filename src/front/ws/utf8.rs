//! Checks UTF-8 that arrives in pieces cut anywhere.
//!
//! - Owns: at most three bytes of an unfinished character.
//! - Takes: pieces of a text. Gives: an error at the first byte that no valid text can hold there.
//! - Source: RFC 6455 §8.1; RFC 3629.

/// The bytes so far are not, and cannot become, UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("text is not UTF-8")]
pub struct NotUtf8;

/// Where a text stands between two pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8Check {
    tail: [u8; 3],
    tail_len: u8,
}

impl Utf8Check {
    /// Takes the next piece.
    ///
    /// # Errors
    /// `NotUtf8`; the check is of no further use then.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), NotUtf8> {
        while self.tail_len > 0 {
            let Some((&byte, rest)) = piece.split_first() else { return Ok(()) };
            piece = rest;
            self.lengthen_tail(byte)?;
        }
        match std::str::from_utf8(piece) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_none() => {
                for &byte in &piece[error.valid_up_to()..] {
                    self.lengthen_tail(byte)?;
                }
                Ok(())
            }
            Err(_) => Err(NotUtf8),
        }
    }

    /// Ends the text; the check is ready for the next one.
    ///
    /// # Errors
    /// `NotUtf8` when a character is unfinished.
    pub fn finish(&mut self) -> Result<(), NotUtf8> {
        let complete = self.tail_len == 0;
        self.tail_len = 0;
        if complete { Ok(()) } else { Err(NotUtf8) }
    }

    fn lengthen_tail(&mut self, byte: u8) -> Result<(), NotUtf8> {
        let len = usize::from(self.tail_len);
        let mut joined = [0; 4];
        joined[..len].copy_from_slice(&self.tail[..len]);
        joined[len] = byte;
        match std::str::from_utf8(&joined[..=len]) {
            Ok(_) => self.tail_len = 0,
            // No prefix of four bytes is unfinished, so `len` is at most two here.
            Err(error) if error.error_len().is_none() && len < self.tail.len() => {
                self.tail[len] = byte;
                self.tail_len += 1;
            }
            Err(_) => return Err(NotUtf8),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(pieces: &[&[u8]]) -> Result<(), NotUtf8> {
        let mut check = Utf8Check::default();
        for piece in pieces {
            check.push(piece)?;
        }
        check.finish()
    }

    #[test]
    fn bad_byte_when_first_possible_then_refused_at_once() {
        let mut check = Utf8Check::default();
        assert_eq!(check.push(&[0xf4]), Ok(()));
        assert_eq!(check.push(&[0x90]), Err(NotUtf8), "beyond U+10FFFF");
        let mut check = Utf8Check::default();
        assert_eq!(check.push(&[0xed]), Ok(()));
        assert_eq!(check.push(&[0xa0]), Err(NotUtf8), "a surrogate");
    }

    #[test]
    fn unfinished_character_when_text_ends_then_refused() {
        assert_eq!(check(&[b"a\xe2\x82"]), Err(NotUtf8));
        assert_eq!(check(&[b"a\xe2\x82", b"\xac"]), Ok(()));
    }

    proptest! {
        #[test]
        fn bytes_when_cut_anywhere_then_judged_as_a_whole(
            bytes in prop_oneof![
                any::<Vec<u8>>(),
                any::<String>().prop_map(String::into_bytes),
                (any::<String>(), any::<u8>()).prop_map(|(text, byte)| {
                    let mut bytes = text.into_bytes();
                    let at = bytes.len() / 2;
                    bytes.insert(at, byte);
                    bytes
                }),
            ],
            step in 1_usize..5,
        ) {
            let pieces: Vec<&[u8]> = bytes.chunks(step).collect();
            prop_assert_eq!(check(&pieces).is_ok(), std::str::from_utf8(&bytes).is_ok());
        }
    }
}
