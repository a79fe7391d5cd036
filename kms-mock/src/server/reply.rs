//! The answer as it goes over the connection: in one piece, or broken off, slow or disguised where a fault says so.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use tokio::time::{Sleep, sleep};

use crate::console::{self, Asset};
use crate::envelope;
use crate::fault::FaultKind;

const JSON: &str = "application/json;charset=UTF-8";
const HTML: &str = "text/html";

/// An answer of the service.
pub fn json(status: StatusCode, body: Bytes) -> Response<ReplyBody> {
    response(status, body, JSON)
}

/// An answer of a gateway in front of the service.
pub fn bare(status: StatusCode) -> Response<ReplyBody> {
    response(status, Bytes::new(), HTML)
}

/// A file of the console, which nobody keeps: it holds the token of this process.
pub fn page(asset: Asset) -> Response<ReplyBody> {
    let mut response = response(StatusCode::OK, asset.body.into(), asset.content_type);
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, console::CONTENT_SECURITY_POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn response(status: StatusCode, body: Bytes, content_type: &'static str) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Applies the faults that concern the body as a whole.
pub fn distort(mut response: Response<ReplyBody>, fault: &FaultKind) -> Response<ReplyBody> {
    let body = std::mem::take(&mut response.body_mut().data);
    let headers = response.headers_mut();
    match fault {
        FaultKind::NotJson | FaultKind::ContentType => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(HTML));
        }
        FaultKind::Gzip => {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        FaultKind::TruncateBody => {
            headers.insert(CONTENT_LENGTH, body.len().into());
        }
        _ => {}
    }
    *response.body_mut() = match fault {
        FaultKind::TruncateBody => ReplyBody { data: body.slice(..body.len() / 2), pace: Pace::BrokenOff },
        FaultKind::Trickle { bytes_per_second } => {
            ReplyBody { data: body, pace: Pace::trickle(bytes_per_second.get()) }
        }
        _ => ReplyBody::whole(envelope::deform(body, fault)),
    };
    response
}

pub struct ReplyBody {
    data: Bytes,
    pace: Pace,
}

enum Pace {
    AtOnce,
    /// At once, and then the connection breaks.
    BrokenOff,
    /// So many bytes after each wait.
    Trickle {
        bytes: usize,
        every: Duration,
        wait: Pin<Box<Sleep>>,
    },
}

impl Pace {
    /// At most ten pieces a second: timers are no finer than a millisecond.
    fn trickle(bytes_per_second: u32) -> Self {
        let bytes = bytes_per_second.div_ceil(10);
        let every = Duration::from_secs(1) * bytes / bytes_per_second;
        Pace::Trickle { bytes: bytes as usize, every, wait: Box::pin(sleep(every)) }
    }
}

impl ReplyBody {
    fn whole(data: Bytes) -> Self {
        ReplyBody { data, pace: Pace::AtOnce }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let ReplyBody { data, pace } = &mut *self;
        let piece = match pace {
            Pace::BrokenOff if data.is_empty() => {
                return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
            }
            _ if data.is_empty() => return Poll::Ready(None),
            Pace::AtOnce | Pace::BrokenOff => std::mem::take(data),
            Pace::Trickle { bytes, every, wait } => {
                ready!(wait.as_mut().poll(context));
                *wait = Box::pin(sleep(*every));
                data.split_to(data.len().min(*bytes))
            }
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && !matches!(self.pace, Pace::BrokenOff)
    }

    fn size_hint(&self) -> SizeHint {
        match self.pace {
            // The header has announced more.
            Pace::BrokenOff => SizeHint::default(),
            _ => SizeHint::with_exact(self.data.len() as u64),
        }
    }
}
