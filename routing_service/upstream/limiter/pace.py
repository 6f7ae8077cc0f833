"""One model as one pump sees it: what it may still send, and what it has to report."""

from __future__ import annotations

import logging

from routing_service.models import AttemptState
from routing_service.settings import ModelSettings
from routing_service.upstream.limiter.arithmetic import Reply, Report
from routing_service.upstream.outcome import Outcome

log = logging.getLogger(__name__)
CONGESTED = {429, 503, 529}
BYTES_A_TOKEN = 4
MEMORY = 0.05  # weight of the last call in a running mean
ASK_S = 0.1  # before the next question where there was less than asked for
MOST_WAIT_S = 1.0  # before the same, however long it is to take: others may give back
RECENT = 0.1  # weight of the last call in the share of calls that were refused
MOST_REFUSED = 0.25  # of recent calls, for one refusal to be no word about the others: the third in a row is one
USED_UP_S = 1.0  # at most, where nothing is left but no call was refused: the next answer says more
FIRST_CALLS = 4  # until one is answered: an answer may tell a limit, or that nothing can be sent
LONG_S = 5.0  # a wait that is worth a line in the log


class Pace:
    def __init__(self, name: str, model: ModelSettings) -> None:
        self._name, self._model = name, model
        self.limit = float(model.max_concurrency)  # calls at a time of all pumps
        self.rated = bool(model.requests_per_minute or model.tokens_per_minute)
        self.permits = 0  # granted and not used; they count only where a rate is in force
        self._ask_at = 0.0
        self.held_until = 0.0  # nothing is sent before
        self._hold_until = 0.0  # what this pump was asked to wait for
        self._spread_from = 0.0  # the end of the wait that held_until was drawn for
        self._hold_is_news = False
        self._fine = self._congested = self._in_flight = 0
        self._refused = 0.0  # share of recent calls
        self._heard = False  # of any call
        self._seconds = 0.0  # that a call takes
        self._call_tokens = self._permit_tokens = self._expected_tokens(BYTES_A_TOKEN * model.expected_output_tokens)
        self._token_factor = 1.0  # of what calls take to what was expected of them
        self._more_tokens = 0.0
        self._said = (0.0, 0.0)
        self._rates = (float(model.requests_per_minute or 0), float(model.tokens_per_minute or 0))
        self._slowed = self._is_long = False  # what the log has said

    @property
    def calm(self) -> bool:
        return not self.rated and self.limit >= self._model.max_concurrency and not self.held_until

    @property
    def troubled(self) -> bool:
        """Whether other pumps should hear of it now."""
        return self._congested > 0 or self._hold_is_news

    def asks(self, now: float) -> bool:
        return self.rated and now >= self._ask_at

    def sent(self, body_bytes: int, in_flight: int) -> float:
        self._in_flight = max(self._in_flight, in_flight)
        if not self.rated:
            return 0.0
        self.permits -= 1
        tokens = self._token_factor * self._expected_tokens(body_bytes)
        self._more_tokens += tokens - self._permit_tokens
        self._call_tokens += MEMORY * (tokens - self._call_tokens)
        return tokens

    def _expected_tokens(self, body_bytes: int) -> float:
        return self._model.overhead_tokens + body_bytes / BYTES_A_TOKEN + self._model.expected_output_tokens

    def room(self, share: int, in_flight: int, now: float) -> int:
        """Calls that may be added to those in flight, of a share of the limit; rates are another matter."""
        if now < self.held_until:
            return 0
        return max(0, (share if self._heard else min(share, FIRST_CALLS)) - in_flight)

    def ended(self, outcome: Outcome, tokens: float, seconds: float, now: float) -> None:
        self._heard = True
        if outcome.usage:
            self._seconds += MEMORY * (seconds - self._seconds)
        if tokens:
            self._correct_tokens(outcome, tokens)
        congested = outcome.status_code in CONGESTED or outcome.error_code == "timeout"
        self._congested += congested
        self._fine += not congested
        self._refused += RECENT * (congested - self._refused)
        hold_s = 0.0
        if congested and (self.rated or self._refused > MOST_REFUSED):
            hold_s = outcome.retry_after_s or 0.0
        if outcome.allowance:
            self._said = (outcome.allowance.requests_per_minute, outcome.allowance.tokens_per_minute)
            self.rated = True  # from now on permits are needed
            hold_s = max(hold_s, min(outcome.allowance.used_up_s, USED_UP_S))
        if hold_s and now + hold_s > self._hold_until:
            self._hold_until, self._hold_is_news = now + hold_s, True
            self.held_until = max(self.held_until, self._hold_until)

    def _correct_tokens(self, outcome: Outcome, expected: float) -> None:
        """A refused call used none; of one whose usage nobody knows the expectation stands."""
        if outcome.usage:
            used = outcome.usage.input + outcome.usage.output
            self._more_tokens += used - expected
            self._token_factor = min(max(self._token_factor * (1 + MEMORY * (used / expected - 1)), 0.01), 100.0)
        elif outcome.state is AttemptState.REFUSED:
            self._more_tokens -= expected

    def report(self, want: int, in_flight: int, pumps: int, now: float) -> Report:
        """What happened since the last report; from now on it is the receiver's to know. Calls in flight are taken to
        be alike in all pumps."""
        report = Report(
            ceiling=self._model.max_concurrency,
            requests_per_minute=float(self._model.requests_per_minute or 0),
            tokens_per_minute=float(self._model.tokens_per_minute or 0),
            want=want,
            give_back=self.permits,
            call_tokens=self._call_tokens,
            more_tokens=self._more_tokens - self.permits * self._permit_tokens,
            hold_s=max(0.0, self._hold_until - now) if self._hold_is_news else 0.0,
            fine=self._fine,
            congested=self._congested,
            in_flight=max(1, in_flight, self._in_flight) * pumps,
            window_s=min(max(1.0, self._seconds), 60.0),
            said_requests=self._said[0],
            said_tokens=self._said[1],
        )
        self.permits = self._fine = self._congested = 0
        self._permit_tokens, self._more_tokens = self._call_tokens, 0.0
        self._in_flight, self._said, self._hold_is_news = in_flight, (0.0, 0.0), False
        return report

    def take(self, reply: Reply, want: int, now: float, jitter: float) -> None:
        """Go by the reply to a report. `jitter` in [0, 1] spreads over a second what pumps do after a wait; where a
        rate is in force it does that itself."""
        self._log_changes(reply)
        self._rates = (reply.requests_per_minute, reply.tokens_per_minute)
        self.rated = any(self._rates)
        self.limit = reply.limit
        self.permits = reply.granted
        self._ask_at = now + min(max(ASK_S, reply.wait_s), MOST_WAIT_S) if reply.granted < want else now
        until = now + reply.held_s
        if reply.held_s and until > self._spread_from + ASK_S:
            self._spread_from = until
            self.held_until = until + (0.0 if self.rated else jitter * min(1.0, reply.held_s))
        elif now >= self.held_until:
            self.held_until = 0.0

    def _log_changes(self, reply: Reply) -> None:
        rates = (reply.requests_per_minute, reply.tokens_per_minute)
        if any(abs(new - old) > 0.01 * old for new, old in zip(rates, self._rates, strict=True)):
            log.info("model %s: %.0f requests and %.0f tokens a minute (0: no limit)", self._name, *rates)
        if reply.held_s > LONG_S and not self._is_long:
            log.warning("model %s: nothing is sent for %.0f s, as its upstream asks", self._name, reply.held_s)
        self._is_long = reply.held_s > LONG_S or (self._is_long and reply.held_s > 0)
        ceiling = self._model.max_concurrency
        if reply.limit <= ceiling / 2 and not self._slowed:
            self._slowed = True
            log.warning("model %s: its upstream is overloaded; %.0f calls at a time", self._name, reply.limit)
        elif self._slowed and reply.limit >= ceiling:
            self._slowed = False
            log.info("model %s: %d calls at a time again", self._name, ceiling)
