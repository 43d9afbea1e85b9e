"""What holds for every test."""

import gc
import os

# Earlier tests leave raw Kafka clients in reference cycles. A forked child that collects one of them destroys a handle
# whose threads stayed in the parent, which hangs or crashes (librdkafka#4869); wd_di's own clients are pinned there.
os.register_at_fork(before=gc.collect)
