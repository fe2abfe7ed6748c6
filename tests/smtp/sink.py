"""A foreign mail server for the tests: takes mail on 127.0.0.1 and tells on stdout what it took.

Its first line is `PORT n`; then one JSON object per message taken: {"from": …, "to": […], "data": …}.
It ends with the process that started it.
"""

import argparse
import asyncio
import json
import os
import ssl

from aiosmtpd.smtp import SMTP, AuthResult


class Sink:
    def __init__(self, options):
        self.options = options
        self.to_fail = options.fail_first

    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        if self.options.refuse:
            return f"{self.options.refuse} refused, as the test asked for"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        message = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "data": envelope.original_content.decode("utf-8", "replace"),
        }
        if self.options.announce:
            print(json.dumps(message), flush=True)
        await asyncio.sleep(self.options.delay)
        if self.to_fail > 0:
            self.to_fail -= 1
            return "451 failed, as the test asked for"
        if not self.options.announce:
            print(json.dumps(message), flush=True)
        return "250 OK"

    def authenticate(self, server, session, envelope, mechanism, given):
        user, _, password = self.options.auth.partition(":")
        right = getattr(given, "login", None) == user.encode() and given.password == password.encode()
        return AuthResult(success=right, handled=False)


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask for this login")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), help="offer STARTTLS")
    parser.add_argument("--require-tls", action="store_true", help="take no mail before STARTTLS")
    parser.add_argument("--smtps", action="store_true", help="speak TLS from the first byte instead of STARTTLS")
    parser.add_argument("--delay", type=float, default=0, metavar="SECONDS", help="wait before the answer to a message")
    parser.add_argument("--announce", action="store_true", help="tell of a message when it has come, not when it is taken")
    parser.add_argument("--refuse", metavar="CODE", help="answer every RCPT with this code")
    parser.add_argument("--fail-first", type=int, default=0, metavar="N", help="answer the first N messages with 451")
    options = parser.parse_args()
    if (options.require_tls or options.smtps) and not options.tls:
        parser.error("--require-tls and --smtps need --tls CERT KEY")
    return options


async def main():
    options = parse_options()
    sink = Sink(options)
    tls = None
    if options.tls:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*options.tls)

    def connection():
        return SMTP(
            sink,
            hostname="sink.test",  # or else aiosmtpd asks the resolver for one
            tls_context=None if options.smtps else tls,
            require_starttls=options.require_tls,
            auth_required=options.auth is not None,
            auth_require_tls=options.require_tls,
            authenticator=sink.authenticate if options.auth else None,
        )

    starter = os.getppid()
    server = await asyncio.get_running_loop().create_server(
        connection, "127.0.0.1", 0, ssl=tls if options.smtps else None
    )
    print(f"PORT {server.sockets[0].getsockname()[1]}", flush=True)
    while os.getppid() == starter:
        await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(main())
