//! The sockets of a process: bound here, or bound by somebody else (the process before, or a service manager) and told apart by their
//! local address.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::config::Config;

/// What a process listens on. An address may have several sockets.
#[derive(Debug)]
pub struct Listeners {
    pub public: Vec<TcpListener>,
    /// Those that speak TLS.
    pub tls: Vec<TcpListener>,
    pub admin: TcpListener,
}

/// Uses the `passed` sockets that are configured and binds what is missing; a family that the machine lacks is skipped. Gives back the
/// addresses that nobody wants; their sockets are closed.
///
/// # Errors
/// One sentence that says what to do.
pub async fn bind(
    config: &Config,
    mut passed: Vec<std::net::TcpListener>,
) -> Result<(Listeners, Vec<SocketAddr>), String> {
    let (mut public, mut tls) = (Vec::new(), Vec::new());
    for address in &config.server.listen {
        public.extend(take_or_bind("server.listen", *address, &mut passed).await?);
    }
    for address in &config.server.tls.listen {
        tls.extend(take_or_bind("server.tls.listen", *address, &mut passed).await?);
    }
    if public.is_empty() && tls.is_empty() {
        return Err("server.listen: this machine has none of these address families".to_owned());
    }
    let at = config.admin.listen;
    let mut admin = take_or_bind("admin.listen", at, &mut passed).await?;
    let admin = admin
        .pop()
        .ok_or("admin.listen: this machine lacks the address family")?;
    let unwanted = passed.iter().filter_map(|socket| socket.local_addr().ok());
    Ok((Listeners { public, tls, admin }, unwanted.collect()))
}

/// All passed sockets of an address, or a new one. Never some of them: a connection in the queue of one that we closed would be lost.
async fn take_or_bind(
    key: &str,
    address: SocketAddr,
    passed: &mut Vec<std::net::TcpListener>,
) -> Result<Vec<TcpListener>, String> {
    let is_ours =
        |socket: &std::net::TcpListener| socket.local_addr().is_ok_and(|local| local == address);
    let (ours, others) = passed.drain(..).partition(is_ours);
    *passed = others;
    let ours: Vec<std::net::TcpListener> = ours;
    if !ours.is_empty() {
        let adopt = |socket: std::net::TcpListener| {
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket)
        };
        let adopted: std::io::Result<_> = ours.into_iter().map(adopt).collect();
        return adopted.map_err(|error| format!("{key}: the socket passed for {address}: {error}"));
    }
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(vec![listener]),
        Err(error) if lacks_family(&error) => {
            tracing::info!(%address, "skipped: this machine lacks the address family");
            Ok(Vec::new())
        }
        Err(error) => Err(cannot_listen(key, address, &error)),
    }
}

fn lacks_family(error: &std::io::Error) -> bool {
    // EAFNOSUPPORT, EADDRNOTAVAIL
    matches!(error.raw_os_error(), Some(97 | 99))
}

fn cannot_listen(key: &str, address: SocketAddr, error: &std::io::Error) -> String {
    let way_out = if error.kind() == std::io::ErrorKind::AddrInUse {
        "; if a cargoextra of the same server.data_dir uses it, `serve --take-over` takes its place"
    } else {
        ""
    };
    format!(
        "{key}: can't listen on {address} ({error}); stop what uses it or choose another{way_out}"
    )
}
