//! Physical replication: the WAL of one server as it is written.
//!
//! The server sends only what it has flushed, so a byte at a position never changes within its timeline.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::wire::{Frame, TextRow, Wire};
use super::{ConnectionOptions, Error, Session, sqlstate};
use crate::clock;
use crate::lsn::Lsn;
use crate::moment::Moment;
use crate::timeline::TimelineId;

const READING_SLOT: &str = "read the replication slot";

/// A replication connection.
pub struct Replication {
    wire: Wire,
    options: ConnectionOptions,
}

/// What `IDENTIFY_SYSTEM` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub system_identifier: String,
    pub timeline: TimelineId,
    /// What the server has flushed.
    pub flushed: Lsn,
}

/// Where a slot keeps WAL from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotPosition {
    /// `None`: the slot reserves nothing, or what it reserved is lost.
    pub restart: Option<Lsn>,
}

/// A timeline's history, as the server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryFile {
    /// `00000002.history`
    pub name: String,
    pub text: String,
}

/// Where a timeline ended and what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextTimeline {
    pub timeline: TimelineId,
    pub at: Lsn,
}

/// The server's answer to START_REPLICATION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Streaming,
    /// The timeline has nothing at or after the position asked for.
    Ended(NextTimeline),
}

/// What streams.
#[derive(Clone, Debug)]
pub enum Streamed {
    Wal {
        start: Lsn,
        data: Bytes,
        /// What the server has flushed.
        server_end: Lsn,
    },
    Keepalive {
        server_end: Lsn,
        time: Moment,
        /// The server wants a status now.
        reply: bool,
    },
    /// The timeline ended: ask [`Replication::next_timeline`].
    End,
}

impl Replication {
    /// Connects and logs in.
    pub async fn connect(options: &ConnectionOptions) -> Result<Self, Error> {
        Ok(Replication { wire: Wire::connect(options).await?, options: options.clone() })
    }

    pub async fn identify_system(&mut self) -> Result<Identity, Error> {
        let rows = self.wire.command("identify the system", "IDENTIFY_SYSTEM").await?;
        let identity = rows.first().and_then(|row| {
            Some(Identity {
                system_identifier: column(row, 0)?.to_owned(),
                timeline: TimelineId(column(row, 1)?.parse().ok()?),
                flushed: column(row, 2)?.parse().ok()?,
            })
        });
        identity.ok_or_else(|| self.wire.protocol("IDENTIFY_SYSTEM"))
    }

    /// Creates a physical slot that keeps WAL from now on.
    pub async fn create_physical_slot(&mut self, name: &str) -> Result<(), Error> {
        let command = format!("CREATE_REPLICATION_SLOT {} PHYSICAL RESERVE_WAL", quoted(name));
        self.wire.command("create the replication slot", &command).await.map(drop)
    }

    pub async fn drop_slot(&mut self, name: &str) -> Result<(), Error> {
        let command = format!("DROP_REPLICATION_SLOT {}", quoted(name));
        self.wire.command("drop the replication slot", &command).await.map(drop)
    }

    /// Returns `None` where no such slot exists. Refuses a logical one.
    pub async fn read_slot(&mut self, name: &str) -> Result<Option<SlotPosition>, Error> {
        let command = format!("READ_REPLICATION_SLOT {}", quoted(name));
        let rows = match self.wire.command(READING_SLOT, &command).await {
            // 14 does not know the command, and takes it for SQL.
            Err(error) if error.sqlstate() == Some(sqlstate::FEATURE_NOT_SUPPORTED) => {
                slot_by_sql(&self.options, name).await?
            }
            rows => rows?,
        };
        let row = rows.first().ok_or_else(|| self.wire.protocol("READ_REPLICATION_SLOT"))?;
        match column(row, 0) {
            None => Ok(None),
            Some("physical") => {
                let restart = column(row, 1).map(str::parse).transpose();
                let restart = restart.map_err(|_| self.wire.protocol("READ_REPLICATION_SLOT"))?;
                Ok(Some(SlotPosition { restart }))
            }
            Some(kind) => Err(self.wire.protocol(&format!("the slot {name} is {kind}, not physical"))),
        }
    }

    pub async fn timeline_history(&mut self, timeline: TimelineId) -> Result<HistoryFile, Error> {
        let rows =
            self.wire.command("read the timeline's history", &format!("TIMELINE_HISTORY {timeline}")).await?;
        let file = rows.first().and_then(|row| {
            Some(HistoryFile { name: column(row, 0)?.to_owned(), text: column(row, 1)?.to_owned() })
        });
        file.ok_or_else(|| self.wire.protocol("TIMELINE_HISTORY"))
    }

    /// Begins to stream `timeline` from `start`.
    pub async fn start_physical(
        &mut self,
        slot: &str,
        start: Lsn,
        timeline: TimelineId,
    ) -> Result<Start, Error> {
        let doing = format!("stream WAL from {start} of timeline {timeline}");
        let command = format!("START_REPLICATION SLOT {} PHYSICAL {start} TIMELINE {timeline}", quoted(slot));
        frontend::query(&command, &mut self.wire.outbox).map_err(|e| self.wire.broken(e))?;
        self.wire.flush().await?;
        match self.wire.answer_frame().await? {
            Frame::CopyBoth => Ok(Start::Streaming),
            Frame::Message(Message::ErrorResponse(body)) => {
                let refused = self.wire.refused(&doing, &body);
                self.wire.results(&doing).await?;
                Err(refused)
            }
            // The timeline ends where we would begin: a result set comes in place of the stream.
            Frame::Message(Message::RowDescription(_)) => {
                let rows = self.wire.results(&doing).await?;
                self.next_of(&rows).map(Start::Ended)
            }
            Frame::Message(_) => Err(self.wire.protocol("neither a stream nor the next timeline")),
        }
    }

    /// Returns what streams next. Cancel-safe. Waits as long as it takes: the caller bounds it, and
    /// asks for a sign of life by [`Replication::status`].
    pub async fn next(&mut self) -> Result<Streamed, Error> {
        loop {
            match self.wire.frame().await? {
                Frame::Message(Message::CopyData(body)) => return self.streamed(body.into_bytes()),
                Frame::Message(Message::CopyDone) => return Ok(Streamed::End),
                Frame::Message(Message::ErrorResponse(body)) => {
                    return Err(self.wire.refused("stream WAL", &body));
                }
                Frame::Message(_) => {}
                Frame::CopyBoth => return Err(self.wire.protocol("CopyBoth within CopyBoth")),
            }
        }
    }

    fn streamed(&self, mut body: Bytes) -> Result<Streamed, Error> {
        match body.try_get_u8() {
            Ok(b'w') if body.len() >= 24 => {
                let (start, server_end, _time) = (Lsn(body.get_u64()), Lsn(body.get_u64()), body.get_i64());
                Ok(Streamed::Wal { start, data: body, server_end })
            }
            Ok(b'k') if body.len() >= 17 => {
                let (server_end, time) = (Lsn(body.get_u64()), Moment(body.get_i64()));
                Ok(Streamed::Keepalive { server_end, time, reply: body.get_u8() == 1 })
            }
            _ => Err(self.wire.protocol("a message in the stream that is neither WAL nor keepalive")),
        }
    }

    /// Ends the stream after [`Streamed::End`] and returns which timeline follows.
    pub async fn next_timeline(&mut self) -> Result<NextTimeline, Error> {
        frontend::copy_done(&mut self.wire.outbox);
        self.wire.flush().await?;
        let rows = self.wire.results("end the stream").await?;
        self.next_of(&rows)
    }

    fn next_of(&self, rows: &[TextRow]) -> Result<NextTimeline, Error> {
        let next = rows.first().and_then(|row| {
            let timeline = TimelineId(column(row, 0)?.parse().ok()?);
            Some(NextTimeline { timeline, at: column(row, 1)?.parse().ok()? })
        });
        next.ok_or_else(|| self.wire.protocol("no timeline follows the one that ended"))
    }

    /// Tells the server what was written and what is held safely: the slot moves to `flushed`.
    pub async fn status(&mut self, written: Lsn, flushed: Lsn, answer: bool) -> Result<(), Error> {
        let mut body = BytesMut::with_capacity(34);
        body.put_u8(b'r');
        body.put_u64(written.0);
        body.put_u64(flushed.0);
        body.put_u64(Lsn::INVALID.0); // nothing is applied
        body.put_i64(clock::now().0);
        body.put_u8(u8::from(answer));
        self.wire.copy_data(body.freeze());
        self.wire.flush().await
    }

    /// Returns the error for a server that says nothing.
    pub fn silent(&self, waited: Duration) -> Error {
        self.wire.silent(waited)
    }

    /// Ends the stream and the connection in good order; what still streams is dropped.
    pub async fn close(mut self) -> Result<(), Error> {
        frontend::copy_done(&mut self.wire.outbox);
        frontend::terminate(&mut self.wire.outbox);
        self.wire.flush().await?;
        // The server closes once it has read our last words: until then the slot counts as in use.
        let gone = async { while self.wire.frame().await.is_ok() {} };
        let bound = Duration::from_secs(5);
        tokio::time::timeout(bound, gone).await.map_err(|_| self.wire.silent(bound))
    }
}

/// Asks in a session of its own what READ_REPLICATION_SLOT would, for the same answer.
async fn slot_by_sql(options: &ConnectionOptions, name: &str) -> Result<Vec<TextRow>, Error> {
    let query = "SELECT slot.slot_type, slot.restart_lsn::text FROM (SELECT) AS one
                 LEFT JOIN pg_replication_slots AS slot ON slot.slot_name = $1::text";
    let session = Session::connect(options, None).await?;
    let row = session.row(READING_SLOT, query, &[&name]).await?;
    Ok(vec![vec![row.get(0), row.get(1)]])
}

fn column(row: &TextRow, number: usize) -> Option<&str> {
    row.get(number)?.as_deref()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
