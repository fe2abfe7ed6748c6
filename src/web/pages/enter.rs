//! Signing in.

use super::kept::{DONE, REGISTRATION};
use super::refusal::{NO_ADDRESS, Refusal};
use super::visit::{Answered, Form, Visit};
use crate::accounts::login;
use crate::web::session;
use crate::web::views::Login;

pub const LOGIN: &str = "/account/login";

pub async fn page(mut visit: Visit) -> Answered {
    if visit.signed_in().await?.is_some() {
        return Ok(visit.go(super::account::ACCOUNT));
    }
    let told = visit.told(LOGIN);
    show(&mut visit, &Refusal::default(), &told.text, &told.email)
}

pub async fn sign_in(mut visit: Visit, form: Form) -> Answered {
    let (email, password) = (form.text("email").trim(), form.text("password"));
    let missing = |text: &str, words: &str| if text.is_empty() { words } else { "" }.to_owned();
    let wrong = [
        ("email", missing(email, NO_ADDRESS)),
        ("password", missing(password, "Enter your password.")),
    ];
    if let Some(refusal) = Refusal::of_fields(wrong) {
        return show(&mut visit, &refusal, "", email);
    }
    match login::login(visit.app(), &visit.client, email, password).await {
        Ok((_, begun)) => {
            let lines = session::begun(visit.app(), &begun);
            visit.set(lines);
            visit.forget(&REGISTRATION);
            visit.forget(&DONE);
            Ok(visit.go(super::account::ACCOUNT))
        }
        Err(error) => show(&mut visit, &Refusal::of(error, "")?, "", email),
    }
}

fn show(visit: &mut Visit, refusal: &Refusal, notice: &str, email: &str) -> Answered {
    let csrf = visit.csrf();
    let page = Login {
        shell: visit.shell(),
        csrf: &csrf,
        errors: &refusal.errors,
        notice,
        email,
    };
    visit.show(refusal, &page)
}
