//! Mail: what we write to people, and the queue that never loses it.

use crate::clock::Millis;

pub mod letter;
pub mod transport;
pub mod worker;

/// Every mail there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mail {
    ResetCode,
    VerifyCode,
    PasswordChanged,
}

impl Mail {
    pub fn name(self) -> &'static str {
        match self {
            Self::ResetCode => "reset_code",
            Self::VerifyCode => "verify_code",
            Self::PasswordChanged => "password_changed",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::ResetCode, Self::VerifyCode, Self::PasswordChanged]
            .into_iter()
            .find(|mail| mail.name() == name)
    }
}

/// A mail ready to be handed over.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Stable over retries and restarts, so that a receiver can tell a repeat.
    pub message_id: String,
    /// The address as stored.
    pub to: String,
    pub subject: String,
    pub text: String,
    pub html: String,
    pub written_at: Millis,
}
