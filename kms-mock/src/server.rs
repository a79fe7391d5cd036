//! The HTTP side: accepts connections, reads a request within limits, hands it to the gate, writes the answer, and breaks off
//! where a fault says so.

mod reply;
mod seats;

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use self::reply::ReplyBody;
use self::seats::{Seat, Seats};
use crate::console;
use crate::control;
use crate::envelope;
use crate::error::*;
use crate::fault::{FaultKind, Phase, Roll};
use crate::gate::{self, Arrived, Verdict};
use crate::routes::{self, Route};
use crate::service::Service;

/// From this many connections on, one that waits is closed for each that comes. The limit on descriptors may make it fewer.
const MAX_CONNECTIONS: usize = 4096;
/// A header longer than this is refused by the HTTP layer.
const MAX_HEADER: usize = 32 << 10;
/// A body over the limit is read and thrown away up to this length, so that the client gets to read its refusal.
const DRAINED: usize = 1 << 20;
/// How long answers under way may take once the mock is to stop.
const STOP_GRACE: Duration = Duration::from_millis(250);
/// How long to wait for a descriptor to come free.
const OUT_OF_DESCRIPTORS_PAUSE: Duration = Duration::from_millis(20);

/// Serves until `stop` changes or its sender is gone.
pub async fn run(listener: TcpListener, service: Arc<Service>, mut stop: watch::Receiver<bool>) {
    let (seats, most) = (Arc::new(Seats::default()), most_connections());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Connections with requests under way stay: they end soon, unless a fault holds them.
                    if connections.len() >= most {
                        seats.make_room();
                    }
                    connections.spawn(serve_connection(stream, service.clone(), seats.take(), stop.clone()));
                }
                Err(error) if is_gone(&error) => {}
                Err(_) => {
                    // The kernel looks for a descriptor before it looks who waits: without anybody, nobody has to leave.
                    if is_anyone_waiting(&listener) {
                        seats.make_room();
                    }
                    sleep(OUT_OF_DESCRIPTORS_PAUSE).await;
                }
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

/// Half of the descriptors at most: the process that the mock is a part of may need the others.
fn most_connections() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors / 2).unwrap_or(usize::MAX).clamp(1, MAX_CONNECTIONS)
}

fn is_anyone_waiting(listener: &TcpListener) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Whether accepting failed because of the client, not of the process.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

async fn serve_connection(stream: TcpStream, service: Arc<Service>, seat: Seat, mut stop: watch::Receiver<bool>) {
    // Without it the client is gone.
    let Ok(peer) = stream.peer_addr() else { return };
    // Answers are small and must not wait for one another; a failure only costs time.
    let _ = stream.set_nodelay(true);
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(service.read_timeout)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(stream), service_fn(|request| respond(&service, &seat, peer, request)));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = seat.asked_to_leave() => return,
        _ = stop.changed() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    // An error here is a client that went away, or a fault that closes the connection.
    if ended.is_err_and(|error| is_reset(&error)) {
        let _ = connection.into_parts().io.inner().set_zero_linger();
    }
}

/// Whether the connection is to end with a reset.
fn is_reset(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::ConnectionReset)
}

/// Answers one request. An error closes the connection without an answer.
async fn respond(
    service: &Arc<Service>,
    seat: &Seat,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> io::Result<Response<ReplyBody>> {
    let (parts, body) = request.into_parts();
    let body = match timeout(service.read_timeout, read_body(body, service.switches().max_body)).await {
        Ok(body) => body?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let _served = seat.serve();
    if service.control && parts.uri.path().starts_with(control::PREFIX) {
        let page = parts.uri.path()[control::PREFIX.len()..].strip_prefix(console::PREFIX);
        match page.and_then(|path| console::asset(service, &parts, path)) {
            Some(Ok(asset)) => return Ok(reply::page(asset)),
            Some(Err((status, body))) => return Ok(reply::json(status, body.to_string().into())),
            None => {}
        }
        let (status, body) = control::answer(service, &parts, body.as_deref());
        return Ok(reply::json(status, body.to_string().into()));
    }
    let route = routes::find(parts.uri.path()).filter(|_| parts.method == Method::POST);
    match route {
        Some(route) => call(service, route, peer.ip(), parts, body).await,
        None => Ok(refuse(service, &KMS_0405.into(), &service.random.id())),
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
    service: &Arc<Service>,
    route: &'static Route,
    peer: IpAddr,
    parts: Parts,
    body: Option<Vec<u8>>,
) -> io::Result<Response<ReplyBody>> {
    let request_id = service.random.id();
    let number = service.calls.begin(route.api, &request_id, service.clock.now());
    let roll = hold_up(service, route.api).await;
    let cleared = service.faults.cleared();
    match service.faults.take(route.api, Phase::Arrival, &roll) {
        Some(FaultKind::Status(status)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            service.calls.finish(number, None, status.as_u16(), "".into());
            return Ok(reply::bare(status));
        }
        Some(FaultKind::Hang) => {
            cleared.await;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Some(FaultKind::Drop) => return Err(io::ErrorKind::ConnectionAborted.into()),
        Some(FaultKind::Reset) => return Err(io::ErrorKind::ConnectionReset.into()),
        _ => {}
    }
    let (verdict, roll) = decide(service, route, peer, parts, body, roll).await?;
    let fault = service.faults.take(route.api, Phase::Answer, &roll);
    if fault == Some(FaultKind::DropAfter) {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    let (response, code) = match verdict.reply {
        Ok(mut payload) => {
            if let Some(fault) = &fault {
                envelope::falsify(&mut payload, fault);
            }
            let body = envelope::success(verdict.profile, payload, &request_id);
            (reply::json(StatusCode::OK, body), SUCCESS.code.into())
        }
        Err(refusal) => (refuse(service, &refusal, &request_id), refusal.code),
    };
    service.calls.finish(number, verdict.access_key, response.status().as_u16(), code);
    Ok(match &fault {
        Some(fault) => reply::distort(response, fault),
        None => response,
    })
}

/// Decides about a call: here, or on a thread of its own if the others would wait for it too long.
async fn decide(
    service: &Arc<Service>,
    route: &'static Route,
    peer: IpAddr,
    parts: Parts,
    body: Option<Vec<u8>>,
    roll: Roll,
) -> io::Result<(Verdict, Roll)> {
    let service = service.clone();
    let work = move || {
        let query = parts.uri.query().unwrap_or_default();
        let arrived = Arrived { route, query, headers: &parts.headers, body: body.as_deref(), peer, roll: &roll };
        (gate::decide(&service, &arrived), roll)
    };
    if route.is_slow() { spawn_blocking(work).await.map_err(io::Error::other) } else { Ok(work()) }
}

/// Waits as long as the latency of the API says, and a fault on top of it. The faults that chance has for the call.
async fn hold_up(service: &Service, api: &str) -> Roll {
    let roll = service.faults.roll(&service.dice);
    let mut wait = service.latencies.draw(api, &service.dice);
    if let Some(FaultKind::Delay(delay)) = service.faults.take(api, Phase::Delay, &roll) {
        wait = wait.saturating_add(delay);
    }
    if wait.is_zero() {
        return roll;
    }
    sleep(wait).await;
    // Others may have come in between.
    service.faults.roll(&service.dice)
}

fn refuse(service: &Service, refusal: &Refusal, request_id: &str) -> Response<ReplyBody> {
    let status = match refusal.soft || service.switches().soft_errors {
        true => StatusCode::OK,
        false => StatusCode::from_u16(refusal.http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
    };
    reply::json(status, envelope::refusal(refusal, request_id))
}
