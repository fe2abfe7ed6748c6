//! The worker that empties the outbox: claim, look up, render, send, back off.
//!
//! Several workers never send one mail twice while they live: a claim is one conditional update. Across a crash a mail is sent at least
//! once, with the same `Message-ID`.

use futures_util::future::join_all;
use tokio::sync::watch;

use super::letter::{CodeFor, Envelope, NoticeOf, notice, with_code};
use super::transport::{Failure, Transport};
use super::{Letter, Mail};
use crate::clock::{Clock, Millis};
use crate::config::Config;
use crate::error::Error;
use crate::keys::{Keyring, Purpose};
use crate::metrics::Metrics;
use crate::store::accounts::Account;
use crate::store::db::Db;
use crate::store::outbox::Queued;
use crate::store::{accounts, outbox, resets, verifications};

/// First wait after a failure; it doubles with each.
const BACK_OFF: Millis = 5_000;
/// Longest wait.
const LONGEST_BACK_OFF: Millis = 3_600_000;

/// What a worker works with.
#[derive(Clone, Copy, Debug)]
pub struct Worker<'a> {
    pub config: &'a Config,
    pub clock: &'a Clock,
    pub keys: &'a Keyring,
    pub db: &'a Db,
    pub transport: &'a Transport,
    pub metrics: &'a Metrics,
    /// The name that claims are made under.
    pub node: &'a str,
}

/// What is to be done with a claimed mail.
enum Plan {
    Send(Box<Letter>),
    /// Not to be sent after all.
    Drop(&'static str),
}

impl Worker<'_> {
    /// Claims what is due and works it off; the number of mails looked at.
    ///
    /// # Errors
    /// A database that does not answer. A mail server that does not answer is no error: the mail waits.
    pub async fn step(&self) -> Result<usize, Error> {
        let now = self.clock.now();
        let batch = self.config.mail.batch as i64;
        let due = outbox::due(&mut self.db.read().await?, now, batch).await?;
        // At the same time: one slow hand-over must not hold up the others.
        let outcomes = join_all(due.iter().map(|id| self.work_off(id))).await;
        self.measure().await?;
        outcomes
            .into_iter()
            .map(|outcome| outcome.map(usize::from))
            .sum()
    }

    /// Claims one mail and delivers it. False if another worker was faster.
    async fn work_off(&self, id: &str) -> Result<bool, Error> {
        let Some(mail) = self.claim(id).await? else {
            return Ok(false);
        };
        self.deliver(&mail).await?;
        Ok(true)
    }

    /// Puts back what this worker has claimed and not sent.
    pub async fn release(&self) -> Result<(), Error> {
        let mut tx = self.db.begin().await?;
        outbox::release(&mut tx, self.node).await?;
        tx.commit().await
    }

    /// At start on SQLite no other process can be sending: claims of a dead one are free at once.
    pub async fn adopt_orphans(&self) -> Result<(), Error> {
        if !self.db.is_local() {
            return Ok(());
        }
        let mut tx = self.db.begin().await?;
        outbox::release_all(&mut tx).await?;
        tx.commit().await
    }

    async fn claim(&self, id: &str) -> Result<Option<Queued>, Error> {
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        let until = now + self.config.mail.lease.0;
        let claimed = outbox::claim(&mut tx, id, self.node, now, until).await?;
        tx.commit().await?;
        Ok(claimed)
    }

    async fn deliver(&self, mail: &Queued) -> Result<(), Error> {
        let outcome = match self.plan(mail).await? {
            Plan::Drop(reason) => Outcome::Dropped(reason),
            Plan::Send(letter) => match self.transport.send(&letter).await {
                Ok(()) => Outcome::Sent,
                Err(Failure::Final(reason)) => Outcome::Dead(reason),
                Err(Failure::Passing(reason)) if mail.attempts >= self.config.mail.max_attempts => {
                    Outcome::Dead(reason)
                }
                Err(Failure::Passing(reason)) => Outcome::Retry(reason),
            },
        };
        self.conclude(mail, &outcome).await
    }

    async fn conclude(&self, mail: &Queued, outcome: &Outcome) -> Result<(), Error> {
        let now = self.clock.now();
        let (id, node) = (mail.id.as_str(), self.node);
        let mut tx = self.db.begin().await?;
        match outcome {
            Outcome::Sent => {
                outbox::mark_sent(&mut tx, id, node, now).await?;
                self.metrics
                    .mail_seconds
                    .observe((now - mail.caused_at) as f64 / 1000.0);
            }
            Outcome::Dropped(reason) => {
                outbox::drop_mail(&mut tx, id, node, reason, now).await?;
            }
            Outcome::Retry(reason) => {
                let due = now + back_off(mail.attempts);
                outbox::retry_later(&mut tx, id, node, reason, due).await?;
                tracing::warn!(
                    mail = id,
                    kind = mail.kind,
                    attempts = mail.attempts,
                    reason,
                    "a mail was not taken and is tried again"
                );
            }
            Outcome::Dead(reason) => {
                outbox::bury(&mut tx, id, node, reason, now).await?;
                tracing::error!(
                    mail = id,
                    kind = mail.kind,
                    reason,
                    "a mail is given up; see `cargoextra outbox list`"
                );
            }
        }
        self.metrics.count_mail(outcome.name());
        tx.commit().await
    }

    /// Looks up whom a mail is for and what it says. Whether an address has an account is found out here, and not while its asker waits.
    async fn plan(&self, mail: &Queued) -> Result<Plan, Error> {
        let mut tx = self.db.begin().await?;
        let account = accounts::find_by_email(&mut tx, &mail.recipient).await?;
        let plan = match (Mail::from_name(&mail.kind), account) {
            (None, _) => Plan::Drop("this program knows no such mail"),
            (_, None) => Plan::Drop("nobody has this address"),
            (Some(Mail::ResetCode), Some(account)) => {
                self.reset_code(&mut tx, mail, &account).await?
            }
            (Some(Mail::VerifyCode), Some(account)) => {
                self.verify_code(&mut tx, mail, &account).await?
            }
            (Some(Mail::PasswordChanged), Some(account)) => {
                self.notice(mail, account.mailbox(), NoticeOf::PasswordChanged)?
            }
        };
        tx.commit().await?;
        Ok(plan)
    }

    async fn reset_code(
        &self,
        tx: &mut crate::store::db::Tx,
        mail: &Queued,
        account: &Account,
    ) -> Result<Plan, Error> {
        let id = mail.flow_id.as_deref().unwrap_or_default();
        let Some(reset) = resets::find_started(tx, id, self.clock.now()).await? else {
            return Ok(Plan::Drop("the code had died in the queue"));
        };
        if account.locked_at.is_some() {
            return self.notice(mail, account.mailbox(), NoticeOf::AccountLocked);
        }
        let Some(key) = self.keys.find(&reset.key_id) else {
            return Ok(Plan::Drop("the code's key was removed"));
        };
        resets::assign(tx, id, &account.id).await?;
        let code = key.code(Purpose::Reset, &reset.nonce);
        let envelope = self.envelope(mail, account.mailbox());
        let letter = with_code(
            self.config,
            &envelope,
            CodeFor::Reset,
            &code,
            &reset.reference,
        )?;
        Ok(Plan::Send(Box::new(letter)))
    }

    async fn verify_code(
        &self,
        tx: &mut crate::store::db::Tx,
        mail: &Queued,
        account: &Account,
    ) -> Result<Plan, Error> {
        let id = mail.flow_id.as_deref().unwrap_or_default();
        let Some(found) = verifications::find_live(tx, id, self.clock.now()).await? else {
            return Ok(Plan::Drop("the code had died in the queue"));
        };
        if account.verified_at.is_some() {
            // Only a registration tells its owner; asking for a code again tells nobody anything.
            return match found.registration_id {
                Some(_) => self.notice(mail, account.mailbox(), NoticeOf::RegisterAttempt),
                None => Ok(Plan::Drop("the address is verified already")),
            };
        }
        let registration = match &found.registration_id {
            Some(id) => accounts::find_registration(tx, id).await?,
            None => accounts::registration_to_resend(tx, &account.id, &mail.network).await?,
        };
        let (Some(registration), Some(key)) = (registration, self.keys.find(&found.key_id)) else {
            return Ok(Plan::Drop("no registration waits at this address"));
        };
        verifications::assign(tx, id, &registration.id).await?;
        let code = key.code(Purpose::Verify, &found.nonce);
        let envelope = Envelope {
            network: &registration.network,
            caused_at: registration.created_at,
            ..self.envelope(mail, &registration.email)
        };
        let letter = with_code(
            self.config,
            &envelope,
            CodeFor::Verify,
            &code,
            &found.reference,
        )?;
        Ok(Plan::Send(Box::new(letter)))
    }

    fn notice(&self, mail: &Queued, to: &str, of: NoticeOf) -> Result<Plan, Error> {
        let letter = notice(self.config, &self.envelope(mail, to), of)?;
        Ok(Plan::Send(Box::new(letter)))
    }

    fn envelope<'a>(&self, mail: &'a Queued, to: &'a str) -> Envelope<'a> {
        Envelope {
            id: &mail.id,
            to,
            network: &mail.network,
            caused_at: mail.caused_at,
            now: self.clock.now(),
        }
    }

    async fn measure(&self) -> Result<(), Error> {
        let depth = outbox::depth(&mut self.db.read().await?).await?;
        self.metrics.outbox_depth.set(depth.waiting);
        self.metrics.outbox_dead.set(depth.dead);
        let age = depth
            .oldest
            .map_or(0.0, |oldest| (self.clock.now() - oldest) as f64 / 1000.0);
        self.metrics.outbox_oldest_seconds.set(age);
        Ok(())
    }
}

enum Outcome {
    Sent,
    Dropped(&'static str),
    Retry(String),
    Dead(String),
}

impl Outcome {
    fn name(&self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Dropped(_) => "dropped",
            Self::Retry(_) => "retried",
            Self::Dead(_) => "dead",
        }
    }
}

/// 5 s, 10 s, 20 s … 1 h. A code that can't be delivered in its ten minutes is dropped, not sent late.
fn back_off(attempts: i64) -> Millis {
    let doublings = (attempts - 1).clamp(0, 20) as u32;
    (BACK_OFF << doublings).min(LONGEST_BACK_OFF)
}

/// Works until `stop` turns true, woken by commits and looking by itself now and then.
pub async fn run(worker: Worker<'_>, woken: &tokio::sync::Notify, mut stop: watch::Receiver<bool>) {
    let mut poll = tokio::time::interval(worker.config.mail.poll.std());
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            () = woken.notified() => {}
            _ = poll.tick() => {}
        }
        // A full batch means that more may be waiting.
        loop {
            match worker.step().await {
                Ok(worked) if worked >= worker.config.mail.batch && !*stop.borrow() => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::error!(%error, "the mail queue can't be read");
                    break;
                }
            }
        }
    }
    if let Err(error) = worker.release().await {
        tracing::error!(%error, "claimed mails could not be put back; another worker takes them after mail.lease");
    }
}
