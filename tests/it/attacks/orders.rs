//! whatever is called in whatever order, no path sets a password without a confirm of that very reset.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::app::{PASSWORD, TestApp, on_both};

/// One call. Indices are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Forgot(usize),
    /// An account's code, or one that nobody has.
    Confirm {
        account: usize,
        code: Option<usize>,
        grant_only: bool,
        elsewhere: bool,
    },
    /// With a grant of any account that was ever given out, with a wrong one, or with none.
    Reset {
        account: usize,
        grant: Sent,
        elsewhere: bool,
    },
    LogoutAll(usize),
    Advance(i64),
}

#[derive(Clone, Debug)]
enum Sent {
    Nothing,
    Null,
    Wrong,
    Given(usize),
}

/// What the product must know about one account.
#[derive(Debug, Default)]
struct Account {
    email: String,
    password: String,
    /// Code, when it expires, whether it can still be confirmed.
    codes: Vec<(String, i64, bool)>,
    confirmed: Option<Confirmed>,
}

#[derive(Debug)]
struct Confirmed {
    grant: String,
    until: i64,
    /// Without a grant: until when, and from elsewhere or not.
    fallback: Option<(i64, bool)>,
}

fn step() -> impl Strategy<Value = Step> {
    let grant = prop_oneof![
        4 => Just(Sent::Nothing),
        1 => Just(Sent::Null),
        1 => Just(Sent::Wrong),
        4 => any::<usize>().prop_map(Sent::Given),
    ];
    let code = prop_oneof![1 => Just(None), 8 => any::<usize>().prop_map(Some)];
    prop_oneof![
        4 => (0..2usize).prop_map(Step::Forgot),
        4 => (0..2usize, code, prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(
            |(account, code, grant_only, elsewhere)| Step::Confirm { account, code, grant_only, elsewhere }
        ),
        5 => (0..2usize, grant, prop::bool::weighted(0.2))
            .prop_map(|(account, grant, elsewhere)| Step::Reset { account, grant, elsewhere }),
        1 => (0..2usize).prop_map(Step::LogoutAll),
        3 => prop_oneof![Just(61_000), Just(119_000), Just(130_000), Just(590_000), Just(610_000)].prop_map(Step::Advance),
    ]
}

/// The product beside its model.
struct Run<'a> {
    app: &'a TestApp,
    accounts: Vec<Account>,
    grants: Vec<String>,
    /// Since the run began.
    now: i64,
    resets: usize,
    number: usize,
}

impl Run<'_> {
    async fn take(&mut self, step: &Step) {
        match step {
            Step::Forgot(account) => self.forgot(*account).await,
            Step::Confirm {
                account,
                code,
                grant_only,
                elsewhere,
            } => {
                self.confirm(*account, *code, *grant_only, *elsewhere).await;
            }
            Step::Reset {
                account,
                grant,
                elsewhere,
            } => self.reset(*account, grant, *elsewhere).await,
            Step::LogoutAll(account) => self.logout_all(*account).await,
            Step::Advance(millis) => {
                self.app.advance(*millis);
                self.now += millis;
            }
        }
    }

    fn caller(&self, elsewhere: bool) -> crate::app::Caller {
        let from = if elsewhere { "127.0.0.2" } else { "127.0.0.1" };
        self.app.caller().from(from)
    }

    async fn forgot(&mut self, account: usize) {
        let account = &mut self.accounts[account];
        let before = self.app.mails(&account.email).len();
        let body = json!({ "email": account.email });
        assert_eq!(self.app.post("forgot-password", body).await.status, 200);
        self.app.deliver().await;
        let mails = self.app.mails(&account.email);
        let fresh = mails.iter().take(mails.len() - before);
        for mail in fresh.filter(|mail| mail.subject.contains("code")) {
            let code = crate::app::code_in(&mail.text);
            account.codes.push((code, self.now + 600_000, true));
        }
    }

    async fn confirm(
        &mut self,
        account: usize,
        code: Option<usize>,
        grant_only: bool,
        elsewhere: bool,
    ) {
        let caller = self.caller(elsewhere);
        let account = &mut self.accounts[account];
        let chosen = code
            .filter(|_| !account.codes.is_empty())
            .map(|n| n % account.codes.len());
        let typed = chosen.map_or("00000-00000", |n| account.codes[n].0.as_str());
        let expected = chosen.is_some_and(|n| account.codes[n].2 && account.codes[n].1 > self.now);
        let mut body = json!({ "resetToken": typed });
        if grant_only {
            body["proof"] = "grant".into();
        }
        let reply = caller.post("confirm-otp-reset", body).await;
        assert_eq!(reply.status == 200, expected, "{}", reply.text);
        if expected {
            account.codes.iter_mut().for_each(|code| code.2 = false);
            let grant = reply.body()["resetGrant"]
                .as_str()
                .expect("a grant")
                .to_owned();
            self.grants.push(grant.clone());
            account.confirmed = Some(Confirmed {
                grant,
                until: self.now + 600_000,
                fallback: (!grant_only).then_some((self.now + 120_000, elsewhere)),
            });
        }
    }

    async fn reset(&mut self, account: usize, sent: &Sent, elsewhere: bool) {
        let caller = self.caller(elsewhere);
        let account = &mut self.accounts[account];
        self.number += 1;
        let password = format!("NewSecurePass-{}", self.number);
        let mut body = json!({ "email": account.email, "password": password });
        let live = account
            .confirmed
            .as_ref()
            .filter(|confirmed| confirmed.until > self.now);
        let expected = match sent {
            Sent::Given(n) if !self.grants.is_empty() => {
                let grant = &self.grants[n % self.grants.len()];
                body["resetGrant"] = grant.as_str().into();
                live.is_some_and(|confirmed| confirmed.grant == *grant)
            }
            Sent::Wrong => {
                body["resetGrant"] = "wrong".into();
                false
            }
            Sent::Null => {
                body["resetGrant"] = Value::Null;
                false
            }
            _ => live
                .and_then(|confirmed| confirmed.fallback)
                .is_some_and(|(until, from)| self.now <= until && from == elsewhere),
        };
        let reply = caller.post("password-reset", body).await;
        assert_eq!(reply.status == 200, expected, "{}", reply.text);
        if expected {
            account.password = password;
            account.confirmed = None;
            account.codes.iter_mut().for_each(|code| code.2 = false);
            self.resets += 1;
        }
    }

    async fn logout_all(&mut self, account: usize) {
        let account = &mut self.accounts[account];
        let signed_in = self.app.login(&account.email, &account.password).await;
        let token = signed_in.body()["token"]
            .as_str()
            .expect("the model knows the password")
            .to_owned();
        let session = self
            .app
            .caller()
            .header("authorization", &format!("Bearer {token}"));
        assert_eq!(session.post("logout-all", json!({})).await.status, 200);
        account.confirmed = None;
        account.codes.iter_mut().for_each(|code| code.2 = false);
    }
}

on_both! {
    async fn r02_no_order_of_calls_sets_a_password_without_its_confirm(database) {
        let app = TestApp::with(database, |config| {
            // Not the mail budgets are looked at here.
            let budgets = &mut config.accounts.budgets;
            (budgets.mails_network_hour, budgets.mails_network_day) = (1000, 1000);
            (budgets.mails_address_hour, budgets.mails_address_day) = (1000, 1000);
            // Each case makes two accounts and looks through their mails.
            config.mail.capture_limit = 100_000;
        }).await;
        // The same cases every time: what fails once fails again.
        let mut runner = TestRunner::new_with_rng(Config::default(), proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha));
        let mut resets = 0;
        for case in 0..40 {
            let steps = prop::collection::vec(step(), 30..60).new_tree(&mut runner).expect("a case").current();
            let mut run = Run { app: &app, accounts: Vec::new(), grants: Vec::new(), now: 0, resets: 0, number: 0 };
            for name in ["ada", "eve"] {
                let email = format!("{name}-{case}@example.com");
                app.account(&email).await;
                run.accounts.push(Account { email, password: PASSWORD.to_owned(), ..Account::default() });
            }
            for step in &steps {
                run.take(step).await;
            }
            for account in &run.accounts {
                assert!(app.signs_in(&account.email, &account.password).await, "the password is the one of the last reset: {steps:?}");
            }
            resets += run.resets;
        }
        assert!(resets > 20, "the orders tried hold successful resets too: {resets}");
    }
}
