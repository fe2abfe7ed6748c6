//! How a mail leaves us: captured for the developer's mailbox, over SMTP, or as a file.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use lettre::message::header::{ContentType, Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use tokio::sync::broadcast;

use super::Letter;
use crate::clock::Millis;
use crate::config::{Mail, MailTransport};
use crate::private;

/// Where mails go.
pub enum Transport {
    Capture(Mailroom),
    Smtp {
        from: Mailbox,
        smtp: AsyncSmtpTransport<Tokio1Executor>,
        timeout: Duration,
    },
    File {
        from: Mailbox,
        folder: PathBuf,
    },
}

/// Why a mail was not taken.
#[derive(Debug)]
pub enum Failure {
    /// Worth another try.
    Passing(String),
    /// The receiver will never take it.
    Final(String),
}

/// A captured mail.
#[derive(Clone, Debug)]
pub struct Captured {
    pub id: String,
    pub to: String,
    pub from: String,
    pub subject: String,
    pub text: String,
    pub html: String,
    pub headers: Vec<(String, String)>,
    pub sent_at: Millis,
}

/// Captured mails: in memory only, newest last, bounded.
pub struct Mailroom {
    from: Mailbox,
    limit: usize,
    mails: Mutex<VecDeque<Captured>>,
    /// Tells watchers that something changed.
    changed: broadcast::Sender<()>,
}

impl Transport {
    /// Builds the configured transport. Nothing is connected yet: a missing mail server never stops the start.
    ///
    /// # Errors
    /// One sentence for an address that is none.
    pub fn build(config: &Mail) -> Result<Self, String> {
        let from: Mailbox = config
            .from
            .parse()
            .map_err(|_| "mail.from: is not an address".to_owned())?;
        match config.transport {
            MailTransport::Capture => Ok(Self::Capture(Mailroom {
                from,
                limit: config.capture_limit,
                mails: Mutex::default(),
                changed: broadcast::channel(16).0,
            })),
            MailTransport::File => Ok(Self::File {
                from,
                folder: config.directory.clone(),
            }),
            MailTransport::Smtp => {
                let builder =
                    AsyncSmtpTransport::<Tokio1Executor>::from_url(config.smtp_url.reveal())
                        .map_err(|_| {
                            "mail.smtp_url: is not smtp://HOST:PORT or smtps://HOST:PORT".to_owned()
                        })?;
                let timeout = config.timeout.std();
                let mut builder = builder.timeout(Some(timeout));
                if !config.smtp_username.is_empty() {
                    let password = config.smtp_password.reveal().to_owned();
                    let login = Credentials::new(config.smtp_username.clone(), password);
                    builder = builder.credentials(login);
                }
                Ok(Self::Smtp {
                    from,
                    smtp: builder.build(),
                    timeout,
                })
            }
        }
    }

    /// Hands a mail over.
    ///
    /// # Errors
    /// Why it was not taken, and whether it is worth another try.
    pub async fn send(&self, letter: &Letter) -> Result<(), Failure> {
        match self {
            Self::Capture(room) => room.capture(letter),
            Self::Smtp {
                from,
                smtp,
                timeout,
            } => {
                let message = message(from, letter)?;
                // A connection of its own for each mail (the library's pool is off): dropping one half-way must not leave it to the next mail.
                match tokio::time::timeout(*timeout, smtp.send(message)).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) if refuses_recipient(&error) => {
                        Err(Failure::Final(reply(&error)))
                    }
                    Ok(Err(error)) => Err(Failure::Passing(reply(&error))),
                    Err(_) => Err(Failure::Passing(
                        "the mail server did not answer in time".to_owned(),
                    )),
                }
            }
            Self::File { from, folder } => {
                let name = letter
                    .message_id
                    .trim_matches(['<', '>'])
                    .replace('@', "_at_");
                let message = message(from, letter)?.formatted();
                let written = async {
                    private::folder(folder)?;
                    // Whole or not at all: whoever watches the folder never reads half a mail.
                    let draft = folder.join(format!("{name}.part"));
                    tokio::fs::write(&draft, message).await?;
                    tokio::fs::rename(&draft, folder.join(format!("{name}.eml"))).await
                };
                written
                    .await
                    .map_err(|error| Failure::Passing(error.to_string()))
            }
        }
    }

    /// The captured mails, where mail is captured.
    pub fn mailroom(&self) -> Option<&Mailroom> {
        match self {
            Self::Capture(room) => Some(room),
            _ => None,
        }
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Capture(_) => "Capture",
            Self::Smtp { .. } => "Smtp",
            Self::File { .. } => "File",
        })
    }
}

impl Mailroom {
    fn capture(&self, letter: &Letter) -> Result<(), Failure> {
        // Built like any other, so that what can't be sent can't be captured either.
        let message = message(&self.from, letter)?;
        let headers = message.headers().to_string();
        let headers = headers.replace("\r\n ", " ").replace("\r\n\t", " ");
        let split = |line: &str| {
            line.split_once(": ")
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
        };
        let captured = Captured {
            id: letter
                .message_id
                .trim_start_matches('<')
                .split('@')
                .next()
                .unwrap_or_default()
                .to_owned(),
            to: letter.to.clone(),
            from: self.from.to_string(),
            subject: letter.subject.clone(),
            text: letter.text.clone(),
            html: letter.html.clone(),
            headers: headers.lines().filter_map(split).collect(),
            sent_at: letter.written_at,
        };
        let mut mails = self.mails.lock().expect("a push can't be left half-way");
        if mails.len() >= self.limit {
            mails.pop_front();
        }
        mails.push_back(captured);
        drop(mails);
        let _ = self.changed.send(());
        Ok(())
    }

    /// Newest first.
    pub fn list(&self) -> Vec<Captured> {
        let mails = self.mails.lock().expect("a push can't be left half-way");
        mails.iter().rev().cloned().collect()
    }

    pub fn clear(&self) {
        self.mails
            .lock()
            .expect("a push can't be left half-way")
            .clear();
        let _ = self.changed.send(());
    }

    pub fn watch(&self) -> broadcast::Receiver<()> {
        self.changed.subscribe()
    }
}

/// Codes that are about this mail or its receiver (RFC 5321 section 4.2.2). Any other 5xx, at the greeting or at the sign-in say, is about
/// us or the server, and passes once somebody has mended that.
fn refuses_recipient(error: &lettre::transport::smtp::Error) -> bool {
    let code = error.status().map(|code| code.to_string());
    code.is_some_and(|code| matches!(code.as_str(), "550" | "551" | "552" | "553" | "555" | "556"))
}

/// What a server said, without its words: they may repeat the address, or what the mail says.
fn reply(error: &lettre::transport::smtp::Error) -> String {
    match error.status() {
        Some(code) => format!("the mail server answered {code}"),
        None if error.is_timeout() => "the mail server did not answer in time".to_owned(),
        None if error.is_tls() => "the mail server's TLS could not be agreed on".to_owned(),
        None => "the mail server can't be reached, or broke off".to_owned(),
    }
}

/// RFC 3834: so that no vacation responder answers.
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

fn message(from: &Mailbox, letter: &Letter) -> Result<Message, Failure> {
    let refuse =
        |error: &dyn std::fmt::Display| Failure::Final(format!("can't be a mail: {error}"));
    let to = letter.to.parse().map_err(|error| refuse(&error))?;
    let part = |kind, body: &str| SinglePart::builder().header(kind).body(body.to_owned());
    let date = SystemTime::UNIX_EPOCH + Duration::from_millis(letter.written_at as u64);
    Message::builder()
        .from(from.clone())
        .to(Mailbox::new(None, to))
        .subject(&letter.subject)
        .message_id(Some(letter.message_id.clone()))
        .date(date)
        .header(AutoSubmitted)
        .multipart(
            MultiPart::alternative()
                .singlepart(part(ContentType::TEXT_PLAIN, &letter.text))
                .singlepart(part(ContentType::TEXT_HTML, &letter.html)),
        )
        .map_err(|error| refuse(&error))
}
