//! A port of a pod as one stream of bytes, through the API server's port-forward. kube has one too; it sends frames of 4 KiB,
//! each flushed by itself, and an upload then runs at a fraction of what the API server can take.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use futures::{Sink, Stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, client::UpgradeConnectionError, core::Request};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Bytes, Message},
};

/// Most bytes of a frame that is sent. Larger ones are no faster, and every hop keeps a whole one in memory.
const FRAME: usize = 1 << 17;
/// The channel of a port's bytes. The first byte of a frame says which one it belongs to.
const DATA: u8 = 0;

/// A port of a pod.
pub struct Forward<S> {
    socket: WebSocketStream<S>,
    /// What has arrived and was not read yet.
    arrived: Bytes,
    /// On each of the two channels the number of the port comes first.
    greeted: [bool; 2],
}

/// Opens a port of a pod.
pub async fn forward(
    pods: &Api<Pod>,
    pod: &str,
    port: u16,
) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>, kube::Error> {
    let request = Request::new(pods.resource_url())
        .portforward(pod, &[port])
        .map_err(kube::Error::BuildRequest)?;
    let connection = pods.clone().into_client().connect(request).await?;
    Ok(Forward::new(connection.into_stream()))
}

/// The status by which the API server refused to open a port.
pub fn refusal(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) => {
            Some(status.as_u16())
        }
        _ => None,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Forward<S> {
    fn new(socket: WebSocketStream<S>) -> Self {
        Self { socket, arrived: Bytes::new(), greeted: [false; 2] }
    }

    /// Takes a frame in; the other channel brings words when the port cannot be used.
    fn take(&mut self, mut frame: Bytes) -> io::Result<()> {
        if frame.is_empty() {
            return Ok(());
        }
        let channel = frame.split_to(1)[0];
        let greeted = self
            .greeted
            .get_mut(usize::from(channel))
            .ok_or_else(|| io::Error::other("a frame of no channel"))?;
        if !*greeted {
            *greeted = true;
        } else if channel == DATA {
            self.arrived = frame;
        } else {
            return Err(io::Error::other(String::from_utf8_lossy(&frame).into_owned()));
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Forward<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.arrived.is_empty() {
            match ready!(pin!(&mut self.socket).poll_next(context)) {
                Some(Ok(Message::Binary(frame))) => self.take(frame)?,
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let part = self.arrived.len().min(buffer.remaining());
        buffer.put_slice(&self.arrived.split_to(part));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Forward<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(pin!(&mut self.socket).poll_ready(context)).map_err(broken)?;
        let part = &bytes[..bytes.len().min(FRAME)];
        let mut frame = Vec::with_capacity(part.len() + 1);
        frame.push(DATA);
        frame.extend_from_slice(part);
        pin!(&mut self.socket).start_send(Message::binary(frame)).map_err(broken)?;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.socket).poll_flush(context).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.socket).poll_close(context).map_err(broken)
    }
}

fn broken(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use futures::{SinkExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio_tungstenite::{
        WebSocketStream,
        tungstenite::{Message, protocol::Role},
    };

    use super::{FRAME, Forward};

    async fn pair() -> (Forward<DuplexStream>, WebSocketStream<DuplexStream>) {
        let (client, server) = tokio::io::duplex(4 * FRAME);
        let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let mut server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        for channel in [0, 1] {
            server.send(Message::binary(vec![channel, 0x69, 0x60])).await.unwrap();
        }
        (Forward::new(client), server)
    }

    #[tokio::test]
    async fn bytes_travel_in_large_frames_of_the_first_channel() {
        let (mut client, mut server) = pair().await;
        let sent = vec![7; FRAME + 5];
        client.write_all(&sent).await.unwrap();
        client.flush().await.unwrap();
        for size in [FRAME, 5] {
            let Some(Ok(Message::Binary(frame))) = server.next().await else { panic!("no frame") };
            assert_eq!((frame[0], frame.len()), (0, size + 1));
        }
        server.send(Message::binary(b"\0answer".to_vec())).await.unwrap();
        server.close(None).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_is_an_error_with_its_words() {
        for (frame, words) in [
            (&b"\x01connection refused"[..], "connection refused"),
            (b"\x09what", "a frame of no channel"),
        ] {
            let (mut client, mut server) = pair().await;
            server.send(Message::binary(frame.to_vec())).await.unwrap();
            let error = client.read_u8().await.unwrap_err().to_string();
            assert_eq!(error, words);
        }
    }
}
