//! The byte stream inside `Control.Session`: BuildKit speaks HTTP/2 through the messages of one
//! gRPC call, as the client of the session's services.

use std::io;

use bytes::Bytes;
use futures::{SinkExt, StreamExt, future::ready};
use tokio::{
    io::{AsyncRead, AsyncWrite, BufWriter},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{
    io::{CopyToBytes, SinkWriter, StreamReader},
    sync::PollSender,
};
use tonic::Streaming;

use super::super::proto::moby::buildkit::v1::BytesMessage;

/// Messages that wait to be sent. Small, because HTTP/2 flow control does not limit this queue.
const QUEUED_MESSAGES: usize = 4;
/// Bytes of a message. HTTP/2 frames are 16 KiB; several in one message cost less than one each.
const MESSAGE_BYTES: usize = 64 << 10;

/// Returns the writing half of a tunnel, and the stream of messages to call `Control.Session` with.
pub fn outgoing() -> (impl AsyncWrite + Send + Unpin, ReceiverStream<BytesMessage>) {
    let (sender, receiver) = mpsc::channel(QUEUED_MESSAGES);
    let sink = PollSender::new(sender)
        .sink_map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
        .with(|data: Bytes| ready(Ok::<_, io::Error>(BytesMessage { data })));
    let writer = SinkWriter::new(CopyToBytes::new(sink));
    (BufWriter::with_capacity(MESSAGE_BYTES, writer), ReceiverStream::new(receiver))
}

/// Returns the reading half of a tunnel.
pub fn incoming(messages: Streaming<BytesMessage>) -> impl AsyncRead + Send + Unpin {
    StreamReader::new(messages.map(|message| match message {
        Ok(message) => Ok(message.data),
        Err(status) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, status)),
    }))
}
