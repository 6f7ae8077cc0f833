"""The limiter: how much may be sent to each model now, by all pumps together.

It holds requests and tokens a minute, from the configuration and from what upstreams say; what an upstream asks to
wait; and a number of calls at a time that falls when an upstream is overloaded. The state is shared through the
broker's Redis.

No library does this. Theirs count in one process, or take one permit by one round trip, and do not know of tokens that
turn out otherwise, of waits that an upstream asks for, or of calls at a time that adapt. Here one script answers for
all models at once, and a pump asks it for a whole chunk before it claims: no request waits with its money reserved.

Read `limiter` first (what a pump uses), then `pace` (one model as one pump sees it), `arithmetic` (the rules, pure),
exchange.lua (the same rules inside Redis), and `shared` (the way there).
"""

from routing_service.upstream.limiter.limiter import Limiter as Limiter
from routing_service.upstream.limiter.limiter import Share as Share
from routing_service.upstream.limiter.shared import SharedLimits as SharedLimits
from routing_service.upstream.limiter.shared import redis_url as redis_url
