//! A restart that loses no connection: the running process passes its listening sockets to the next one.
//!
//! Each process has a door, the Unix socket `handover.sock` in `server.data_dir`, for its own user alone. A conversation at the door:
//!
//! 1. the new process says `handover 1`; both have looked at the other's user id before;
//! 2. the old one says how many sockets it passes, and passes them in the same message (SCM_RIGHTS);
//! 3. the new one builds all that it needs, and says `ready`;
//! 4. the old one says `yours` and stops accepting; or it says `late` and goes on.
//!
//! The sockets are never closed, so no connection in their queues is lost. If the new process ends before 4, nothing has happened. If the
//! old one ends without a word, the new one is all there is, and serves.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::config::Config;
use crate::private;
use crate::web::server::{Stop, stopped};

/// The name of the door in `server.data_dir`.
const DOOR: &str = "handover.sock";
/// The first word; the number is the version of the conversation.
const HELLO: &str = "handover 1";
/// Longest line of the conversation, in bytes.
const LONGEST_LINE: usize = 512;
/// Sockets of one message: Linux passes no more (SCM_MAX_FD).
const MOST_SOCKETS: usize = 253;

/// Where the process that comes after us knocks.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    draft: PathBuf,
    path: PathBuf,
    patience: Duration,
}

/// The process before us, which waits until we are ready.
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
    patience: Duration,
}

impl Door {
    /// Makes the door, but under another name: the process before us may still use the right one.
    ///
    /// # Errors
    /// A folder that can't be written, a path longer than a socket's may be (107 bytes).
    pub fn build(config: &Config) -> std::io::Result<Self> {
        let folder = &config.server.data_dir;
        private::folder(folder)?;
        let draft = folder.join(format!("{DOOR}.{}", std::process::id()));
        match std::fs::remove_file(&draft) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&draft)?;
        std::fs::set_permissions(&draft, PermissionsExt::from_mode(0o600))?;
        Ok(Self {
            listener,
            draft,
            path: folder.join(DOOR),
            patience: config.server.handover_timeout.std(),
        })
    }

    /// Gives the door its name. What a dead process left there is replaced; so is the door of the process that we `took_over` from.
    ///
    /// # Errors
    /// Another process that lives has its door there.
    pub async fn publish(&self, took_over: bool) -> std::io::Result<()> {
        if !took_over && UnixStream::connect(&self.path).await.is_ok() {
            return Err(std::io::Error::other(
                "another process serves with the same server.data_dir",
            ));
        }
        std::fs::rename(&self.draft, &self.path)
    }

    /// Waits for a successor and passes it `sockets`. True as soon as one has taken over, false when the process is to stop. Until then no
    /// failure of a successor means anything to us.
    pub async fn wait(self, sockets: Vec<OwnedFd>, mut stop: Stop) -> bool {
        let own = rustix::process::geteuid().as_raw();
        loop {
            let conversation = async {
                let (mut stream, _) = self.listener.accept().await.map_err(|e| e.to_string())?;
                pass(&mut stream, &sockets, own, self.patience).await
            };
            let passed = tokio::select! {
                () = stopped(&mut stop) => return false,
                passed = conversation => passed,
            };
            match passed {
                Ok(true) => return true,
                Ok(false) => {}
                Err(why) => tracing::warn!(why, "not taken over; this process goes on"),
            }
        }
    }
}

/// A door that never got its name leaves nothing behind.
impl Drop for Door {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.draft);
    }
}

/// The old process's side. False for somebody who only looked whether we live.
///
/// # Errors
/// Why the new process has not taken over.
async fn pass(
    stream: &mut UnixStream,
    sockets: &[OwnedFd],
    own: u32,
    patience: Duration,
) -> Result<bool, String> {
    if let Err(why) = same_user(stream, own) {
        let _ = stream.write_all(format!("{why}\n").as_bytes()).await;
        return Err(why);
    }
    let steps = async {
        match line(stream).await?.as_str() {
            "" => return Ok(false),
            HELLO => {}
            _ => {
                let why = "the two processes are too different for a hand-over; stop the old one";
                let _ = stream.write_all(format!("{why}\n").as_bytes()).await;
                return Err(why.to_owned());
            }
        }
        send_sockets(stream, sockets)
            .await
            .map_err(|error| format!("the sockets can't be passed: {error}"))?;
        match line(stream).await?.as_str() {
            "ready" => Ok(true),
            _ => Err("the new process has given up".to_owned()),
        }
    };
    match timeout(patience, steps).await {
        Ok(Ok(true)) => {
            let told = stream.write_all(b"yours\n").await;
            told.map_err(|_| "the new process ended when it was ready".to_owned())?;
            Ok(true)
        }
        Ok(other) => other,
        Err(_) => {
            let _ = stream.write_all(b"late\n").await;
            Err("the new process was not ready within server.handover_timeout".to_owned())
        }
    }
}

/// Asks the running process for its sockets. `None` when there is none: whoever says `--take-over` in a script wants that the new process
/// serves in the end, and on the first start there is nobody before it.
///
/// # Errors
/// One sentence that says what to do.
pub async fn take(config: &Config) -> Result<Option<(Predecessor, Vec<TcpListener>)>, String> {
    let path = config.server.data_dir.join(DOOR);
    let at = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let mut stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(error) => {
            return Err(at(&format!(
                "{error}; take over as the user that the running process has"
            )));
        }
    };
    let own = rustix::process::geteuid().as_raw();
    same_user(&stream, own).map_err(|why| at(&why))?;
    let patience = config.server.handover_timeout.std();
    let taken = timeout(patience, ask(&mut stream)).await;
    let taken = taken.map_err(|_| {
        at(&"the running process passed no sockets within server.handover_timeout; is another hand-over under way?")
    })?;
    let sockets = taken.map_err(|why| at(&why))?;
    Ok(Some((Predecessor { stream, patience }, sockets)))
}

async fn ask(stream: &mut UnixStream) -> Result<Vec<TcpListener>, String> {
    let hello = stream.write_all(format!("{HELLO}\n").as_bytes()).await;
    hello.map_err(|error| error.to_string())?;
    receive_sockets(stream).await
}

impl Predecessor {
    /// Says that we are about to accept, and waits until the old process has let go.
    ///
    /// # Errors
    /// The old process has not waited for us, and goes on.
    pub async fn ready(mut self) -> Result<(), String> {
        // One that is gone hears nothing.
        let _ = self.stream.write_all(b"ready\n").await;
        let said = timeout(self.patience, line(&mut self.stream)).await;
        match said.unwrap_or_else(|_| Ok("late".to_owned())).as_deref() {
            Ok("yours") => Ok(()),
            // It ended: we have the sockets, and nobody else serves.
            Ok("") | Err(_) => {
                tracing::warn!("the process before this one ended by itself");
                Ok(())
            }
            Ok(_) => Err(
                "the running process did not wait so long and goes on; raise server.handover_timeout"
                    .to_owned(),
            ),
        }
    }
}

fn is_nobody(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused
    )
}

/// Whoever reads what passes here could read all traffic: only the same user may, whatever the file's mode says.
fn same_user(stream: &UnixStream, own: u32) -> Result<(), String> {
    let theirs = stream.peer_cred().map_err(|error| error.to_string())?.uid();
    if theirs == own {
        return Ok(());
    }
    Err(format!(
        "a process of user {theirs} can't take part in a hand-over of user {own}"
    ))
}

/// A line without its end; empty at the end of the stream.
async fn line(stream: &mut UnixStream) -> Result<String, String> {
    let mut text = Vec::new();
    loop {
        match stream.read_u8().await {
            Ok(b'\n') => break,
            Ok(byte) if text.len() < LONGEST_LINE => text.push(byte),
            Ok(_) => return Err("a line is too long".to_owned()),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

async fn send_sockets(stream: &UnixStream, sockets: &[OwnedFd]) -> std::io::Result<()> {
    let rights: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    let count = format!("{}\n", rights.len());
    let send = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&rights)) {
            return Err(std::io::Error::other("too many sockets for one message"));
        }
        let text = [IoSlice::new(count.as_bytes())];
        Ok(sendmsg(stream, &text, &mut control, SendFlags::NOSIGNAL)?)
    };
    stream.async_io(Interest::WRITABLE, send).await.map(drop)
}

/// The sockets name themselves: each knows its local address.
async fn receive_sockets(stream: &UnixStream) -> Result<Vec<TcpListener>, String> {
    let mut text = [0; LONGEST_LINE];
    let mut sockets = Vec::new();
    let receive = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut text)];
        let got = recvmsg(stream, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                sockets.extend(rights.map(TcpListener::from));
            }
        }
        Ok(got.bytes)
    };
    let got = stream.async_io(Interest::READABLE, receive).await;
    let length = got.map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&text[..length]);
    match said.trim() {
        "" => Err("the running process passed no sockets; its log says why".to_owned()),
        count if count.parse() == Ok(sockets.len()) => Ok(sockets),
        count if count.parse::<usize>().is_ok() => {
            Err("some sockets got lost; raise the limit of open files".to_owned())
        }
        why => Err(why.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn another_user_gets_a_sentence_and_no_sockets() {
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
        let user = rustix::process::geteuid().as_raw();
        let socket = TcpListener::bind("127.0.0.1:0")
            .expect("a free port")
            .into();
        theirs
            .write_all(b"handover 1\nready\n")
            .await
            .expect("it listens");
        let passed = pass(&mut ours, &[socket], user + 1, Duration::from_secs(30)).await;
        let why = format!(
            "a process of user {user} can't take part in a hand-over of user {}",
            user + 1
        );
        assert_eq!(passed, Err(why.clone()));
        drop(ours);
        assert_eq!(receive_sockets(&theirs).await.err(), Some(why));
    }

    #[tokio::test]
    async fn sockets_arrive_with_their_addresses() {
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
        let user = rustix::process::geteuid().as_raw();
        let bind = || TcpListener::bind("127.0.0.1:0").expect("a free port");
        let sockets = [bind(), bind()];
        let named = |sockets: &[TcpListener]| -> Vec<_> {
            sockets
                .iter()
                .map(|socket| socket.local_addr().ok())
                .collect()
        };
        let addresses = named(&sockets);
        let passing = tokio::spawn(async move {
            let sockets = sockets.map(OwnedFd::from);
            pass(&mut ours, &sockets, user, Duration::from_secs(30)).await
        });
        let taken = ask(&mut theirs).await.expect("they come");
        assert_eq!(named(&taken), addresses);
        theirs.write_all(b"ready\n").await.expect("it listens");
        assert_eq!(line(&mut theirs).await.as_deref(), Ok("yours"));
        assert_eq!(passing.await.expect("it runs"), Ok(true));
    }
}
