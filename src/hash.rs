//! Password hashing: a pool of dedicated threads at lower scheduling priority, each with its memory block reused, behind a bounded queue.
//!
//! Measured on 2 cores with a login flood and 2,000 cheap requests/s (field notes §0): `spawn_blocking` gives the cheap ones a p99 of
//! 3.5 s and 4.5 GiB, this 2 ms and 43 MiB. A full queue refuses at once, before anything has changed.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};

use argon2::{Algorithm, Argon2, AssociatedData, Block, KeyId, Params, ParamsBuilder, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tokio::sync::oneshot;

use crate::clock::{Clock, Millis};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::random::{Random, Secret, same};

/// What new hashes cost, and how long jobs may wait.
#[derive(Clone, Debug)]
pub struct Settings {
    pub threads: usize,
    pub queue: usize,
    /// Milliseconds in the queue after which a job's client has gone.
    pub max_wait: Millis,
    pub memory_kib: u32,
    pub iterations: u32,
    pub parallelism: u32,
    /// `(id, value)`; the first goes into new hashes.
    pub peppers: Vec<(String, Secret<String>)>,
}

/// The pool. Dropping it ends its threads when their current jobs are done.
#[derive(Debug)]
pub struct Hasher {
    queue: SyncSender<Job>,
    clock: Arc<Clock>,
    random: Arc<Random>,
    metrics: Arc<Metrics>,
    settings: Arc<Settings>,
    /// A hash of nothing that anybody knows: verified against where there is no account, so that both take as long.
    dummy: String,
}

struct Job {
    work: Work,
    password: Secret<String>,
    queued_at: Millis,
    answer: oneshot::Sender<Result<Done, Error>>,
}

enum Work {
    Hash { salt: [u8; 16] },
    Verify { phc: String },
    Score(Score),
}

/// Judges a password; what is wrong with it.
pub type Score = Box<dyn FnOnce(&str) -> Vec<String> + Send>;

enum Done {
    Hashed(String),
    Verified(Verdict),
    Scored(Vec<String>),
}

/// The outcome of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub right: bool,
    /// Right, but made with weaker parameters or another pepper than configured today.
    pub outdated: bool,
}

impl Hasher {
    /// Starts the threads and makes the dummy hash.
    pub fn start(
        settings: Settings,
        clock: Arc<Clock>,
        random: Arc<Random>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let settings = Arc::new(settings);
        let (queue, jobs) = sync_channel(settings.queue);
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..settings.threads {
            let (jobs, settings) = (jobs.clone(), settings.clone());
            let (clock, metrics) = (clock.clone(), metrics.clone());
            std::thread::Builder::new()
                .name(format!("hash-{number}"))
                .spawn(move || run(&jobs, &settings, &clock, &metrics))
                .expect("the system can start a thread");
        }
        let mut memory = Vec::new();
        let dummy = hash(&settings, &mut memory, &random.secret(), &random.bytes())
            .expect("the parameters were validated");
        Self {
            queue,
            clock,
            random,
            metrics,
            settings,
            dummy,
        }
    }

    /// Hashes a password to a PHC string with today's parameters.
    ///
    /// # Errors
    /// [`Error::Busy`] at once when the queue is full, later when the job waited too long.
    pub async fn hash(&self, password: Secret<String>) -> Result<String, Error> {
        let salt = self.random.bytes();
        match self.submit(Work::Hash { salt }, password).await? {
            Done::Hashed(phc) => Ok(phc),
            _ => unreachable!("a hash job gives a hash"),
        }
    }

    /// Verifies a password; with no hash to verify against, does the same work and says no.
    ///
    /// # Errors
    /// As [`Hasher::hash`].
    pub async fn verify(
        &self,
        password: Secret<String>,
        phc: Option<&str>,
    ) -> Result<Verdict, Error> {
        let work = Work::Verify {
            phc: phc.unwrap_or(&self.dummy).to_owned(),
        };
        match self.submit(work, password).await? {
            Done::Verified(verdict) if phc.is_some() => Ok(verdict),
            _ => Ok(Verdict {
                right: false,
                outdated: false,
            }),
        }
    }

    /// Judges a password on a thread of the pool: that takes as long as a hash, and must not hold up the cheap requests either.
    ///
    /// # Errors
    /// As [`Hasher::hash`].
    pub async fn score(
        &self,
        password: Secret<String>,
        score: Score,
    ) -> Result<Vec<String>, Error> {
        match self.submit(Work::Score(score), password).await? {
            Done::Scored(reasons) => Ok(reasons),
            _ => unreachable!("a score job gives a score"),
        }
    }

    async fn submit(&self, work: Work, password: Secret<String>) -> Result<Done, Error> {
        let (answer, done) = oneshot::channel();
        let job = Job {
            work,
            password,
            queued_at: self.clock.now(),
            answer,
        };
        self.metrics.hash_queue.inc();
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.queue.try_send(job)
        {
            self.metrics.hash_queue.dec();
            self.metrics.count_hash("busy");
            return Err(self.busy());
        }
        done.await.unwrap_or_else(|_| Err(self.busy()))
    }

    fn busy(&self) -> Error {
        // About 15 ms a hash and core: a full queue is worked off in this many seconds.
        let seconds = (self.settings.queue * 15)
            .div_ceil(self.settings.threads * 1000)
            .max(1);
        Error::Busy {
            retry_after: seconds as u64,
        }
    }
}

/// One thread of the pool.
fn run(jobs: &Mutex<Receiver<Job>>, settings: &Settings, clock: &Clock, metrics: &Metrics) {
    // Requests that cost nothing go before those that cost 15 ms. Where the system refuses, it works all the same.
    let _ = rustix::process::setpriority_process(None, 10);
    let mut memory = Vec::new();
    loop {
        let job = jobs.lock().expect("no thread panics while it waits").recv();
        let Ok(job) = job else { return };
        metrics.hash_queue.dec();
        if job.answer.is_closed() || clock.now() - job.queued_at > settings.max_wait {
            metrics.count_hash("dropped");
            continue;
        }
        let done = match job.work {
            Work::Hash { salt } => {
                hash(settings, &mut memory, &job.password, &salt).map(Done::Hashed)
            }
            Work::Verify { phc } => {
                verify(settings, &mut memory, &job.password, &phc).map(Done::Verified)
            }
            Work::Score(score) => Ok(Done::Scored(score(job.password.reveal()))),
        };
        metrics.count_hash("done");
        let _ = job.answer.send(done);
    }
}

fn hash(
    settings: &Settings,
    memory: &mut Vec<Block>,
    password: &Secret<String>,
    salt: &[u8; 16],
) -> Result<String, Error> {
    let pepper = settings.peppers.first();
    let recipe = Recipe {
        memory_kib: settings.memory_kib,
        iterations: settings.iterations,
        parallelism: settings.parallelism,
        pepper: pepper.map(|(id, _)| id.clone()),
    };
    let digest = recipe.digest(memory, password, salt, pepper.map(|(_, value)| value))?;
    let keyid = recipe.pepper.as_ref().map_or(String::new(), |id| {
        format!(",keyid={}", STANDARD_NO_PAD.encode(id))
    });
    Ok(format!(
        "$argon2id$v=19$m={},t={},p={}{keyid}${}${}",
        recipe.memory_kib,
        recipe.iterations,
        recipe.parallelism,
        STANDARD_NO_PAD.encode(salt),
        STANDARD_NO_PAD.encode(digest)
    ))
}

fn verify(
    settings: &Settings,
    memory: &mut Vec<Block>,
    password: &Secret<String>,
    phc: &str,
) -> Result<Verdict, Error> {
    let (recipe, salt, digest) =
        parse_phc(phc).ok_or_else(|| Error::internal("a stored password hash can't be read"))?;
    let pepper = match &recipe.pepper {
        None => None,
        Some(wanted) => {
            let known = settings.peppers.iter().find(|(id, _)| id == wanted);
            let (_, value) = known
                .ok_or_else(|| Error::internal("a password's pepper is not in secrets.peppers"))?;
            Some(value)
        }
    };
    let right = same(&recipe.digest(memory, password, &salt, pepper)?, &digest);
    let outdated = recipe.memory_kib < settings.memory_kib
        || recipe.iterations < settings.iterations
        || recipe.pepper.as_ref() != settings.peppers.first().map(|(id, _)| id);
    Ok(Verdict { right, outdated })
}

/// The parameters that stand in a PHC string.
struct Recipe {
    memory_kib: u32,
    iterations: u32,
    parallelism: u32,
    pepper: Option<String>,
}

impl Recipe {
    fn digest(
        &self,
        memory: &mut Vec<Block>,
        password: &Secret<String>,
        salt: &[u8],
        pepper: Option<&Secret<String>>,
    ) -> Result<[u8; 32], Error> {
        let failed = |error: argon2::Error| Error::internal(format!("argon2: {error}"));
        let params = self.params().map_err(failed)?;
        let secret = pepper.map_or(&[][..], |value| value.reveal().as_bytes());
        memory.resize(params.block_count().max(memory.len()), Block::default());
        let mut out = [0; 32];
        Argon2::new_with_secret(secret, Algorithm::Argon2id, Version::V0x13, params)
            .and_then(|argon2| {
                argon2.hash_password_into_with_memory(
                    password.reveal().as_bytes(),
                    salt,
                    &mut out,
                    memory,
                )
            })
            .map_err(failed)?;
        Ok(out)
    }

    fn params(&self) -> Result<Params, argon2::Error> {
        let mut builder = ParamsBuilder::new();
        builder
            .m_cost(self.memory_kib)
            .t_cost(self.iterations)
            .p_cost(self.parallelism);
        if let Some(id) = &self.pepper {
            builder.keyid(KeyId::new(id.as_bytes())?);
        }
        builder.data(AssociatedData::EMPTY).output_len(32).build()
    }
}

/// Parses `$argon2id$v=19$m=…,t=…,p=…[,keyid=…]$salt$hash` (the PHC string format).
fn parse_phc(phc: &str) -> Option<(Recipe, Vec<u8>, Vec<u8>)> {
    let mut parts = phc.strip_prefix("$argon2id$v=19$")?.split('$');
    let (params, salt, digest) = (parts.next()?, parts.next()?, parts.next()?);
    let mut recipe = Recipe {
        memory_kib: 0,
        iterations: 0,
        parallelism: 0,
        pepper: None,
    };
    for param in params.split(',') {
        match param.split_once('=')? {
            ("m", value) => recipe.memory_kib = value.parse().ok()?,
            ("t", value) => recipe.iterations = value.parse().ok()?,
            ("p", value) => recipe.parallelism = value.parse().ok()?,
            ("keyid", value) => {
                let id = STANDARD_NO_PAD.decode(value).ok()?;
                recipe.pepper = Some(String::from_utf8(id).ok()?);
            }
            _ => return None,
        }
    }
    Some((
        recipe,
        STANDARD_NO_PAD.decode(salt).ok()?,
        STANDARD_NO_PAD.decode(digest).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(iterations: u32, peppers: &[&str]) -> Settings {
        let pepper = |id: &&str| ((*id).to_owned(), Secret::new(format!("{id}-value")));
        Settings {
            threads: 1,
            queue: 1,
            max_wait: 1000,
            memory_kib: 64,
            iterations,
            parallelism: 1,
            peppers: peppers.iter().map(pepper).collect(),
        }
    }

    fn check(settings: &Settings, password: &str, phc: &str) -> Verdict {
        verify(
            settings,
            &mut Vec::new(),
            &Secret::new(password.into()),
            phc,
        )
        .expect("verifies")
    }

    fn make(settings: &Settings, password: &str) -> String {
        hash(
            settings,
            &mut Vec::new(),
            &Secret::new(password.into()),
            &[7; 16],
        )
        .expect("hashes")
    }

    #[test]
    fn right_wrong_and_outdated() {
        let (weak, strong) = (settings(1, &[]), settings(2, &[]));
        let phc = make(&weak, "pass");
        assert_eq!(
            check(&weak, "pass", &phc),
            Verdict {
                right: true,
                outdated: false
            }
        );
        assert_eq!(
            check(&strong, "pass", &phc),
            Verdict {
                right: true,
                outdated: true
            }
        );
        assert_eq!(
            check(&weak, "Pass", &phc),
            Verdict {
                right: false,
                outdated: false
            }
        );
    }

    #[test]
    fn a_pepper_is_named_and_needed() {
        let (old, both) = (settings(1, &["a"]), settings(1, &["b", "a"]));
        let phc = make(&old, "pass");
        assert!(phc.contains(",keyid="));
        assert_eq!(
            check(&both, "pass", &phc),
            Verdict {
                right: true,
                outdated: true
            }
        );
        let without = settings(1, &[]);
        assert!(verify(&without, &mut Vec::new(), &Secret::new("pass".into()), &phc).is_err());
    }

    /// S-06: nothing is cut off, and NUL is a character like any other.
    #[test]
    fn no_byte_is_ignored() {
        let settings = settings(1, &[]);
        let phc = make(&settings, &format!("{}a", "x".repeat(72)));
        assert!(!check(&settings, &format!("{}b", "x".repeat(72)), &phc).right);
        let phc = make(&settings, "ab\0cd");
        assert!(!check(&settings, "ab", &phc).right);
        assert!(!check(&settings, "ab\0ce", &phc).right);
        assert!(check(&settings, "ab\0cd", &phc).right);
    }
}
