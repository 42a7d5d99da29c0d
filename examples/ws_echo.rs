//! Echoes WebSocket messages: the peer of the Autobahn cases (`make ws-conformance`).
//!
//! ```text
//! cargo run --example ws_echo -- 127.0.0.1:9001
//! ```
//!
//! - Owns: one message at a time for each connection. Takes: text and binary, in any number of frames.
//! - Gives: the same message in one frame; pongs; the peer's close code.
//! - Bound: `RULES`.
//! - Source: RFC 6455; the layers under test are `front::ws::{port, upgrade, frame}`.

#![expect(clippy::print_stdout, reason = "a script reads the address from here")]

use std::{collections::HashMap, io, rc::Rc, time::Duration};

use actix_web::App;
use bytes::BytesMut;
use hongqiao::front::{
    transport,
    ws::{
        frame::{Decoder, Event, Head, Opcode, Rules},
        port::{self, Phase, PortSettings},
        upgrade::{Endpoint, Endpoints, Upgraded},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::timeout,
};

const RULES: Rules = Rules { frame_bytes_max: 32 << 20, message_bytes_max: 32 << 20, text: true };

/// Bytes that are read and written at once.
const BATCH_BYTES: usize = 256 * 1024;

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let address = address.parse().map_err(io::Error::other)?;
    let bound = transport::bind(address, 1).map_err(io::Error::other)?;
    let listener = bound.listeners.into_iter().next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    println!("listening on ws://{}/", bound.address);
    let endpoint: Rc<dyn Endpoint> = Rc::new(Echo);
    let endpoints: Endpoints = HashMap::from([("/".to_owned(), endpoint)]);
    let (_running, stop) = watch::channel(Phase::Open);
    actix::System::new().block_on(port::serve(
        listener,
        App::new(),
        Rc::new(endpoints),
        PortSettings::new(Duration::from_secs(5)),
        stop,
    ))
}

struct Echo;

impl Endpoint for Echo {
    fn subprotocols(&self) -> &[&'static str] {
        &[]
    }

    fn needs_subprotocol(&self) -> bool {
        false
    }

    fn allows_origin(&self, _: Option<&str>, _: Option<&str>) -> bool {
        true
    }

    fn has_room(&self) -> bool {
        true
    }

    fn accept(&self, upgraded: Upgraded) {
        actix::spawn(async move {
            // How a connection ends is for the client of this program to judge.
            let _ = echo(upgraded.stream, upgraded.replay).await;
        });
    }
}

async fn echo(mut stream: TcpStream, mut input: BytesMut) -> io::Result<()> {
    let (mut decoder, mut message, mut output) = (Decoder::default(), Vec::new(), Vec::new());
    input.reserve(BATCH_BYTES);
    loop {
        let open = answer(&mut decoder, &mut input, &mut message, &mut output);
        stream.write_all(&output).await?;
        output.clear();
        if !open {
            return end(stream).await;
        }
        input.clear();
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

/// Answers what has come; false when the last frame was written.
fn answer(
    decoder: &mut Decoder,
    input: &mut [u8],
    message: &mut Vec<u8>,
    output: &mut Vec<u8>,
) -> bool {
    let mut at = 0;
    loop {
        match decoder.next(input, &mut at, &RULES) {
            Ok(None) => return true,
            Ok(Some(Event::Data { text, range, last })) => {
                message.extend_from_slice(&input[range]);
                if last {
                    let opcode = if text { Opcode::Text } else { Opcode::Binary };
                    frame(opcode, message, output);
                    message.clear();
                }
            }
            Ok(Some(Event::Ping(payload))) => frame(Opcode::Pong, payload.as_slice(), output),
            Ok(Some(Event::Pong(_))) => {}
            Ok(Some(Event::Close(code))) => {
                let code = code.map(u16::to_be_bytes);
                frame(Opcode::Close, code.as_ref().map_or(&[], |code| code), output);
                return false;
            }
            Err(violation) => {
                frame(Opcode::Close, &violation.close_code().to_be_bytes(), output);
                return false;
            }
        }
    }
}

fn frame(opcode: Opcode, payload: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(Head::new(opcode, payload.len() as u64).as_slice());
    output.extend_from_slice(payload);
}

/// Sends the end of the stream, then reads what is on its way, so that no reset overtakes the close
/// frame.
async fn end(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let drain = async { while matches!(stream.read(&mut [0; 4096]).await, Ok(1..)) {} };
    let _ = timeout(Duration::from_secs(1), drain).await;
    Ok(())
}
