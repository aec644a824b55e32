//! The framing of gRPC messages: a flag byte, four bytes of length, the message. Messages beyond the
//! limit and compressed ones stop here, before a daemon has to hold them.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use aios_kit::server::MAX_MESSAGE_BYTES;
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Limited};
use tonic::Status;

/// Bytes before each message.
const HEADER_BYTES: usize = 5;
/// Longest wait for the body of a request that is recorded before it is passed on.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Follows the frames of a stream of bytes, however it is cut.
#[derive(Debug, Default)]
struct Scanner {
    header: [u8; HEADER_BYTES],
    have: usize,
    remaining: usize,
}

impl Scanner {
    fn scan(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while !data.is_empty() {
            if self.remaining > 0 {
                let skipped = self.remaining.min(data.len());
                self.remaining -= skipped;
                data = data.get(skipped..).unwrap_or_default();
                continue;
            }
            let taken = (HEADER_BYTES - self.have).min(data.len());
            let (head, rest) = data.split_at(taken);
            if let Some(slot) = self.header.get_mut(self.have..self.have + taken) {
                slot.copy_from_slice(head);
            }
            self.have += taken;
            data = rest;
            if self.have == HEADER_BYTES {
                self.have = 0;
                let [flag, a, b, c, d] = self.header;
                if flag != 0 {
                    return Err(Status::unimplemented(
                        "compressed messages are not accepted; send them plain",
                    ));
                }
                let length = u32::from_be_bytes([a, b, c, d]);
                self.remaining = usize::try_from(length).unwrap_or(usize::MAX);
                if self.remaining > MAX_MESSAGE_BYTES {
                    return Err(too_large(self.remaining));
                }
            }
        }
        Ok(())
    }
}

fn too_large(bytes: usize) -> Status {
    Status::resource_exhausted(format!(
        "the message has {bytes} bytes; at most {MAX_MESSAGE_BYTES} are accepted"
    ))
}

/// A body whose messages are bounded. What stopped it is left in `violation`, because the transport
/// that reads the body only says that it was cut off.
pub(crate) struct Bounded<B> {
    inner: B,
    scanner: Scanner,
    violation: Arc<OnceLock<Status>>,
}

impl<B> Bounded<B> {
    pub(crate) fn new(inner: B) -> (Self, Arc<OnceLock<Status>>) {
        let violation = Arc::new(OnceLock::new());
        let body = Self {
            inner,
            scanner: Scanner::default(),
            violation: violation.clone(),
        };
        (body, violation)
    }
}

impl<B> Body for Bounded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                let status =
                    Status::cancelled(format!("the caller's request ended early: {error}"));
                return Poll::Ready(Some(Err(status)));
            }
        };
        if let Some(data) = frame.data_ref()
            && let Err(status) = self.scanner.scan(data)
        {
            let _ = self.violation.set(status.clone());
            return Poll::Ready(Some(Err(status)));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

/// Reads the one message of a unary request.
pub(crate) async fn single<B>(body: B) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let whole = tokio::time::timeout(
        BODY_TIMEOUT,
        Limited::new(body, MAX_MESSAGE_BYTES + HEADER_BYTES).collect(),
    )
    .await
    .map_err(|_| Status::deadline_exceeded("the request did not arrive within 30 seconds"))?
    .map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            Status::resource_exhausted(format!(
                "the message is too long; at most {MAX_MESSAGE_BYTES} bytes are accepted"
            ))
        } else {
            Status::cancelled(format!("the caller's request ended early: {error}"))
        }
    })?
    .to_bytes();
    let mut scanner = Scanner::default();
    scanner.scan(
        whole
            .get(..HEADER_BYTES.min(whole.len()))
            .unwrap_or_default(),
    )?;
    if whole.len() < HEADER_BYTES || whole.len() - HEADER_BYTES != scanner.remaining {
        return Err(Status::invalid_argument(
            "the request is not exactly one message",
        ));
    }
    Ok(whole.slice(HEADER_BYTES..))
}

/// One message with its header.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + message.len());
    frame.extend_from_slice(&[0]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    #[test]
    fn how_the_bytes_are_cut_does_not_matter() {
        let mut stream = Vec::new();
        for size in [0_usize, 1, 300, 70_000] {
            stream.extend_from_slice(&framed(&vec![7; size]));
        }
        for cut in [1, 2, 3, 5, 6, 17, 4096, stream.len()] {
            let mut scanner = Scanner::default();
            for piece in stream.chunks(cut) {
                scanner.scan(piece).unwrap();
            }
            assert_eq!((scanner.have, scanner.remaining), (0, 0), "cut at {cut}");
        }
    }

    #[test]
    fn a_length_beyond_the_limit_stops_at_its_header() {
        for cut in [1, 5] {
            let mut scanner = Scanner::default();
            let header = [0, 0, 0x40, 0, 1];
            let result = header.chunks(cut).try_for_each(|piece| scanner.scan(piece));
            assert_eq!(result.unwrap_err().code(), tonic::Code::ResourceExhausted);
        }
        let exact = [0, 0, 0x40, 0, 0];
        assert!(Scanner::default().scan(&exact).is_ok());
    }

    #[tokio::test]
    async fn a_unary_request_is_one_message() {
        assert_eq!(single(Full::new(framed(b"abc"))).await.unwrap(), "abc");
        assert_eq!(single(Full::new(framed(b""))).await.unwrap(), "");
        let two = [framed(b"a"), framed(b"b")].concat();
        let short = framed(b"abc").slice(..6);
        for wrong in [
            Bytes::from(two),
            short,
            Bytes::new(),
            Bytes::from_static(b"\0\0"),
        ] {
            let error = single(Full::new(wrong)).await.unwrap_err();
            assert_eq!(error.code(), tonic::Code::InvalidArgument);
        }
        let compressed = single(Full::new(Bytes::from_static(&[1, 0, 0, 0, 0]))).await;
        assert_eq!(compressed.unwrap_err().code(), tonic::Code::Unimplemented);
        let huge = single(Full::new(framed(&vec![0; MAX_MESSAGE_BYTES + 1]))).await;
        assert_eq!(huge.unwrap_err().code(), tonic::Code::ResourceExhausted);
    }
}
