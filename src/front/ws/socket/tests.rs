//! The socket over a scripted twin: pieces cut anywhere, writes cut anywhere.

use std::{cell::Cell, collections::VecDeque};

use proptest::prelude::*;

use super::*;
use crate::front::ws::frame::{Head, Opcode};

const RULES: Rules = Rules { frame_bytes_max: 1 << 20, message_bytes_max: 1 << 20, text: false };

/// Gives what it is told to; takes as many bytes as its budgets say, one budget a write.
#[derive(Default)]
struct Twin {
    incoming: RefCell<VecDeque<Vec<u8>>>,
    ended: Cell<bool>,
    budgets: RefCell<VecDeque<usize>>,
    written: RefCell<Vec<u8>>,
    closed: Cell<bool>,
}

impl Socket for Twin {
    fn poll_read_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ready = self.ended.get() || !self.incoming.borrow().is_empty();
        if ready { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn try_read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let mut incoming = self.incoming.borrow_mut();
        let Some(piece) = incoming.front_mut() else {
            return if self.ended.get() { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        };
        let taken = piece.len().min(buffer.capacity() - buffer.len());
        buffer.put_slice(&piece[..taken]);
        piece.drain(..taken);
        if piece.is_empty() {
            incoming.pop_front();
        }
        Ok(taken)
    }

    fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.budgets.borrow().front() == Some(&0) {
            self.budgets.borrow_mut().pop_front();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        let budget = self.budgets.borrow_mut().pop_front().unwrap_or(usize::MAX);
        if budget == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let taken = all.len().min(budget);
        self.written.borrow_mut().extend_from_slice(&all[..taken]);
        Ok(taken)
    }

    fn close(&self) {
        self.closed.set(true);
    }

    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}

fn socket(pieces: &[&[u8]]) -> WsSocket<Twin> {
    let twin = Twin::default();
    twin.incoming.borrow_mut().extend(pieces.iter().map(|piece| piece.to_vec()));
    WsSocket::new(twin, BytesMut::new(), Rc::new(RULES))
}

/// Writes a frame as a client does.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Head::new(Opcode::Binary, payload.len() as u64).as_slice().to_vec();
    bytes[0] = first;
    bytes[1] |= 0x80;
    let key = [0x11, 0x22, 0x33, 0x44];
    bytes.extend_from_slice(&key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// Reads until nothing is there; the error kind that ended it, `None` for the end of the stream.
fn read_all(socket: &WsSocket<Twin>) -> (Vec<u8>, Option<ErrorKind>) {
    let mut all = Vec::new();
    loop {
        let mut buffer = BytesMut::with_capacity(16);
        match socket.try_read(&mut buffer) {
            Ok(0) => return (all, None),
            Ok(read) => {
                assert_eq!(read, buffer.len());
                all.extend_from_slice(&buffer);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut cx = Context::from_waker(std::task::Waker::noop());
                if socket.poll_read_ready(&mut cx).is_pending() {
                    return (all, Some(ErrorKind::WouldBlock));
                }
            }
            Err(error) => return (all, Some(error.kind())),
        }
    }
}

/// Splits what a server wrote into (opcode, payload); the second part is an unfinished frame.
fn parse_written(bytes: &[u8]) -> (Vec<(u8, Vec<u8>)>, Vec<u8>) {
    let (mut frames, mut rest) = (Vec::new(), bytes);
    while rest.len() >= 2 {
        let (head, len) = match rest[1] {
            126 if rest.len() >= 4 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
            126.. => break,
            len => (2, usize::from(len)),
        };
        if rest.len() < head + len {
            break;
        }
        frames.push((rest[0], rest[head..head + len].to_vec()));
        rest = &rest[head + len..];
    }
    (frames, rest.to_vec())
}

fn written(socket: &WsSocket<Twin>) -> Vec<(u8, Vec<u8>)> {
    let (frames, rest) = parse_written(&socket.inner.written.borrow());
    assert!(rest.is_empty(), "unfinished: {rest:?}");
    frames
}

#[test]
fn socket_when_idle_then_costs_little_more_than_its_inner_socket() {
    assert!(size_of::<WsSocket<()>>() <= 104, "{}", size_of::<WsSocket<()>>());
}

#[test]
fn frames_when_cut_and_padded_with_pings_then_one_stream() {
    let bytes = [
        frame(0x02, b"one"),
        frame(0x89, b"p"),
        frame(0x00, b""),
        frame(0x80, b" two"),
        frame(0x82, b" three"),
    ]
    .concat();
    for step in 1..bytes.len() {
        let socket = socket(&bytes.chunks(step).collect::<Vec<_>>());
        assert_eq!(read_all(&socket), (b"one two three".to_vec(), Some(ErrorKind::WouldBlock)));
        assert_eq!(written(&socket), [(0x8a, b"p".to_vec())]);
    }
}

#[test]
fn replay_when_there_then_read_before_the_socket() {
    let twin = Twin::default();
    let bytes = frame(0x82, b"behind the request, longer than one read");
    let (front, back) = bytes.split_at(30);
    twin.incoming.borrow_mut().push_back(back.to_vec());
    let socket = WsSocket::new(twin, BytesMut::from(front), Rc::new(RULES));
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(socket.poll_read_ready(&mut cx).is_ready());
    assert_eq!(read_all(&socket).0, b"behind the request, longer than one read");
}

#[test]
fn close_frame_when_read_then_answered_once_and_the_stream_ends() {
    let bytes = [frame(0x82, b"last"), frame(0x88, &1001_u16.to_be_bytes()), vec![0xff]].concat();
    let socket = socket(&[&bytes]);
    assert_eq!(read_all(&socket), (b"last".to_vec(), None));
    let late = socket.try_write_vectored(&[IoSlice::new(b"late")]).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::BrokenPipe);
    socket.close();
    assert!(socket.inner.closed.get());
    assert_eq!(written(&socket), [(0x88, 1001_u16.to_be_bytes().to_vec())]);
}

#[test]
fn violation_when_read_then_earlier_bytes_first_and_the_peer_is_told() {
    for (bad, code) in [(frame(0x81, b"text"), 1003_u16), (vec![0x82, 0x01], 1002)] {
        let socket = socket(&[&frame(0x82, b"good"), &bad]);
        assert_eq!(read_all(&socket), (b"good".to_vec(), Some(ErrorKind::InvalidData)));
        assert_eq!(written(&socket), [(0x88, code.to_be_bytes().to_vec())]);
        // The rest is drained, not judged.
        socket.inner.incoming.borrow_mut().push_back(vec![0xff; 9]);
        assert_eq!(read_all(&socket), (vec![], Some(ErrorKind::WouldBlock)));
        socket.inner.ended.set(true);
        assert_eq!(read_all(&socket), (vec![], None));
        assert_eq!(written(&socket).len(), 1);
    }
}

#[test]
fn close_when_first_then_normal_code_and_end_of_stream() {
    let socket = socket(&[]);
    socket.close();
    assert!(socket.inner.closed.get());
    assert_eq!(written(&socket), [(0x88, 1000_u16.to_be_bytes().to_vec())]);
}

#[test]
fn packets_when_gathered_then_one_frame() {
    let socket = socket(&[]);
    let slices = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cde")];
    assert_eq!(socket.try_write_vectored(&slices).unwrap(), 5);
    assert_eq!(written(&socket), [(0x82, b"abcde".to_vec())]);
}

#[test]
fn ping_when_a_frame_is_begun_then_pong_behind_it() {
    let socket = socket(&[&frame(0x89, b"1")]);
    socket.inner.budgets.borrow_mut().push_back(4);
    assert_eq!(socket.try_write_vectored(&[IoSlice::new(b"abcd")]).unwrap(), 2);
    assert_eq!(read_all(&socket).1, Some(ErrorKind::WouldBlock));
    assert_eq!(socket.try_write_vectored(&[IoSlice::new(b"cd")]).unwrap(), 2);
    assert_eq!(written(&socket), [(0x82, b"abcd".to_vec()), (0x8a, b"1".to_vec())]);
}

#[test]
fn close_when_a_frame_is_begun_then_only_the_end_is_told() {
    let socket = socket(&[]);
    socket.inner.budgets.borrow_mut().push_back(3);
    assert_eq!(socket.try_write_vectored(&[IoSlice::new(b"abcd")]).unwrap(), 1);
    socket.close();
    assert!(socket.inner.closed.get());
    assert_eq!(*socket.inner.written.borrow(), b"\x82\x04a");
}

#[test]
fn pings_when_the_peer_takes_nothing_then_the_latest_is_answered() {
    let pings: Vec<u8> = (0..9_u8).flat_map(|n| frame(0x89, &[n; 100])).collect();
    let socket = socket(&[&pings]);
    // The first pong leaves in part; then nothing does for as long as pings come.
    socket.inner.budgets.borrow_mut().extend([50].into_iter().chain([0; 200]));
    assert!(matches!(read_all(&socket).1, Some(ErrorKind::WouldBlock)));
    socket.inner.budgets.borrow_mut().clear();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(socket.poll_read_ready(&mut cx).is_pending());
    let frames = written(&socket);
    assert_eq!(frames.first(), Some(&(0x8a, vec![0; 100])));
    assert_eq!(frames.last(), Some(&(0x8a, vec![8; 100])));
    assert!(frames.len() <= 3, "{}", frames.len());
    assert!(socket.state.borrow().output.is_quiet());
}

proptest! {
    #[test]
    fn stream_when_writes_are_cut_anywhere_then_arrives_whole_in_whole_frames(
        packets in proptest::collection::vec((0_usize..300, any::<u8>()), 1..20),
        budgets in proptest::collection::vec(0_usize..40, 0..60),
        pings in proptest::collection::vec(any::<bool>(), 60),
    ) {
        let socket = socket(&[]);
        socket.inner.budgets.borrow_mut().extend(budgets);
        let expected: Vec<u8> =
            packets.iter().flat_map(|&(len, byte)| vec![byte; len]).collect();
        let (mut sent, mut pings) = (0, pings.into_iter());
        while sent < expected.len() {
            // What is offered grows and shrinks, but begins with what was not taken.
            let end = expected.len().min(sent + 1 + (sent * 7) % 400);
            let (front, back) = expected[sent..end].split_at((end - sent) / 2);
            match socket.try_write_vectored(&[IoSlice::new(front), IoSlice::new(back)]) {
                Ok(taken) => {
                    prop_assert!(taken > 0);
                    sent += taken;
                }
                Err(error) => prop_assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            if pings.next() == Some(true) {
                socket.inner.incoming.borrow_mut().push_back(frame(0x89, b"ping"));
                read_all(&socket);
            }
        }
        // A pong that was cut leaves when the socket takes bytes again.
        socket.inner.budgets.borrow_mut().clear();
        read_all(&socket);
        let (frames, rest) = parse_written(&socket.inner.written.borrow());
        let mut stream: Vec<u8> = Vec::new();
        for (first, payload) in frames {
            match first {
                0x82 => stream.extend(payload),
                _ => prop_assert_eq!((first, payload), (0x8a, b"ping".to_vec())),
            }
        }
        // Where less was offered than before, the last frame still wants bytes.
        let head = match rest.get(1) { None => 0, Some(126) => 4, Some(_) => 2 };
        stream.extend(&rest[head.min(rest.len())..]);
        prop_assert_eq!(stream, expected);
    }
}
