//! The HTTP side: accepts connections, reads a request within limits, hands it to the gate, writes the answer, and breaks off
//! where a fault says so.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::control;
use crate::envelope;
use crate::error::*;
use crate::fault::{FaultKind, Phase};
use crate::gate::{self, Arrived};
use crate::routes::{self, Route};
use crate::service::Service;

/// More connections than this wait in the backlog of the listener.
const MAX_CONNECTIONS: usize = 4096;
/// A header longer than this is refused by the HTTP layer.
const MAX_HEADER: usize = 32 << 10;
/// A body over the limit is read and thrown away up to this length, so that the client gets to read its refusal.
const DRAINED: usize = 1 << 20;
/// How long answers under way may take once the mock is to stop.
const STOP_GRACE: Duration = Duration::from_millis(250);

/// Serves until `stop` changes or its sender is gone.
pub async fn run(listener: TcpListener, service: Arc<Service>, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, service.clone(), stop.clone()));
                }
                // Out of descriptors, or the client is gone already: neither is cured by trying at once.
                Err(_) => sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
            _ = stop.changed() => break,
        }
    }
    drop(listener);
    // Whoever is not done by then, such as a request that hangs, is cut off when the set is dropped.
    let all_done = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(STOP_GRACE, all_done).await;
}

async fn serve_connection(stream: TcpStream, service: Arc<Service>, mut stop: watch::Receiver<bool>) {
    // Without it the client is gone.
    let Ok(peer) = stream.peer_addr() else { return };
    // Answers are small and must not wait for one another; a failure only costs time.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(service.read_timeout)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(stream), service_fn(|request| respond(service.clone(), peer, request)));
    let mut connection = pin!(connection);
    // An error here is a client that went away, or a fault that closes the connection.
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = stop.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Answers one request. An error closes the connection without an answer.
async fn respond(
    service: Arc<Service>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> io::Result<Response<ReplyBody>> {
    let (parts, body) = request.into_parts();
    let body = match timeout(service.read_timeout, read_body(body, service.switches().max_body)).await {
        Ok(body) => body?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    if service.control && parts.uri.path().starts_with(control::PREFIX) {
        let (status, body) = control::answer(&service, &parts, body.as_deref());
        return Ok(json_response(status, body));
    }
    let route = routes::find(parts.uri.path()).filter(|_| parts.method == Method::POST);
    match route {
        Some(route) => call(&service, route, peer, &parts, body.as_deref()).await,
        None => Ok(refuse(&service, &KMS_0405.into(), &Uuid::new_v4().to_string())),
    }
}

/// The body, or `None` if it is longer than the limit.
async fn read_body(mut body: Incoming, limit: usize) -> io::Result<Option<Vec<u8>>> {
    // A length that is announced is believed: such a body is not collected at all.
    let mut too_long = body.size_hint().lower() > limit as u64;
    let (mut collected, mut read) = (Vec::new(), 0usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(io::Error::other)?;
        let Some(data) = frame.data_ref() else { continue };
        read = read.saturating_add(data.len());
        too_long = too_long || read > limit;
        if too_long {
            collected = Vec::new();
        } else {
            collected.extend_from_slice(data);
        }
        if read > DRAINED {
            break;
        }
    }
    Ok((!too_long).then_some(collected))
}

/// A call of an API, with whatever faults are waiting for it.
async fn call(
    service: &Service,
    route: &'static Route,
    peer: SocketAddr,
    parts: &Parts,
    body: Option<&[u8]>,
) -> io::Result<Response<ReplyBody>> {
    let request_id = Uuid::new_v4().to_string();
    let number = service.calls.begin(route.api, &request_id, service.clock.now());
    if let Some(FaultKind::Delay(delay)) = service.faults.take(route.api, Phase::Delay) {
        sleep(delay).await;
    }
    let cleared = service.faults.cleared();
    match service.faults.take(route.api, Phase::Arrival) {
        Some(FaultKind::Status(status)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            service.calls.finish(number, None, status.as_u16(), "");
            return Ok(response(status, Bytes::new(), "text/html"));
        }
        Some(FaultKind::Hang) => {
            cleared.await;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Some(FaultKind::Drop) => return Err(io::ErrorKind::ConnectionAborted.into()),
        _ => {}
    }
    let query = parts.uri.query().unwrap_or_default();
    let verdict = gate::decide(service, &Arrived { route, query, headers: &parts.headers, body, peer: peer.ip() });
    let fault = service.faults.take(route.api, Phase::Answer);
    if fault == Some(FaultKind::DropAfter) {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    let (response, code) = match verdict.reply {
        Ok(mut payload) => {
            if let Some(fault) = &fault {
                envelope::falsify(&mut payload, fault);
            }
            let body = envelope::success(verdict.profile, payload, &request_id);
            (json_response(StatusCode::OK, body), SUCCESS.code.into())
        }
        Err(refusal) => (refuse(service, &refusal, &request_id), refusal.code),
    };
    service.calls.finish(number, verdict.access_key, response.status().as_u16(), &code);
    Ok(distort(response, fault.as_ref()))
}

fn refuse(service: &Service, refusal: &Refusal, request_id: &str) -> Response<ReplyBody> {
    let status = match service.switches().soft_errors {
        true => StatusCode::OK,
        false => StatusCode::from_u16(refusal.http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
    };
    json_response(status, envelope::refusal(refusal, request_id))
}

fn json_response(status: StatusCode, body: Value) -> Response<ReplyBody> {
    response(status, body.to_string().into(), "application/json;charset=UTF-8")
}

fn response(status: StatusCode, body: Bytes, content_type: &'static str) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Applies the faults that concern the body as a whole.
fn distort(mut response: Response<ReplyBody>, fault: Option<&FaultKind>) -> Response<ReplyBody> {
    let body = std::mem::take(&mut response.body_mut().data);
    if fault == Some(&FaultKind::TruncateBody) {
        response.headers_mut().insert(CONTENT_LENGTH, body.len().into());
        *response.body_mut() = ReplyBody { data: body.slice(..body.len() / 2), broken_off: true };
        return response;
    }
    if fault == Some(&FaultKind::NotJson) {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    }
    *response.body_mut() = ReplyBody::whole(envelope::deform(body, fault));
    response
}

/// An answer in one piece, after which the connection may break.
pub struct ReplyBody {
    data: Bytes,
    broken_off: bool,
}

impl ReplyBody {
    fn whole(data: Bytes) -> Self {
        ReplyBody { data, broken_off: false }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let data = std::mem::take(&mut self.data);
        match (data.is_empty(), self.broken_off) {
            (false, _) => Poll::Ready(Some(Ok(Frame::data(data)))),
            (true, true) => Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into()))),
            (true, false) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && !self.broken_off
    }

    fn size_hint(&self) -> SizeHint {
        match self.broken_off {
            true => SizeHint::default(),
            false => SizeHint::with_exact(self.data.len() as u64),
        }
    }
}
