"""All undocumented names of other libraries that this package replaces, overrides or uses.

A library may rename any of them in any release, possibly without an error. For example, if a method that we override
is renamed, ours is simply no longer called. So tests check that each name exists, that no others are used, and that the
installed versions are those in `SEEN_IN` (tests/celery_sqs/test_kombu.py and test_private_names.py).
"""

from __future__ import annotations

from typing import NamedTuple

# The releases in which all these names were found. pyproject.toml pins Celery, kombu and Flower to them.
SEEN_IN = {"billiard": "4.3", "celery": "5.7", "flower": "2.2", "gevent": "26.9", "kombu": "5.7", "tornado": "6.6"}


class Names(NamedTuple):
    """Names in one class or module. A `*` marks one that this folder replaces or that one of our classes overrides."""

    owner: str  # in the form that pkgutil.resolve_name accepts
    names: str
    reason: str


NAMES = (
    # Celery
    Names("celery._state", "current_app get_current_worker_task", "They tell which task runs in this thread."),
    Names("celery.app.task:Task", "*Request", "Every task gets our request class, without a setting."),
    Names(
        "celery.app.task:Context",
        "properties delivery_info",
        "They identify the message whose task runs in this thread.",
    ),
    Names("celery.bootsteps", "RUN TERMINATE", "They tell whether a worker or its consumer stops."),
    Names("celery.bootsteps:Step", "*info", "`inspect stats` shows each queue's last receive."),
    Names("celery.concurrency.asynpool:AsynPool", "_cache flush", "When it stops, prefork forgets what has not begun."),
    Names(
        "celery.concurrency.asynpool:AsynPool",
        "*_create_write_handlers",
        "A signal must not interrupt the write of a job to a process.",
    ),
    Names("kombu.asynchronous.hub:Hub", "*consolidate_callback", "It is what writes jobs to prefork's processes."),
    Names(
        "celery.concurrency.base:BasePool",
        "_pool apply_async num_processes terminate_job uses_semaphore",
        "They tell what kind of pool it is, how large it is, and whether it can stop a task.",
    ),
    Names("celery.concurrency.gevent:TaskPool", "*_make_killable_target", "Gevent reports a killed task as done."),
    Names(
        "celery.concurrency.prefork:TaskPool",
        "*flush grow",
        "The worker calls `flush`. A pool of threads has no `grow`.",
    ),
    Names("celery.events.dispatcher:EventDispatcher", "groups", "Task events are switched off while nobody watches."),
    Names("celery.events.event", "EVENT_EXCHANGE_NAME", "Events are recognized by their exchange."),
    Names(
        "celery.events.receiver:EventReceiver",
        "*_receive wakeup_workers",
        "Flower must not see events that Celery never sends.",
    ),
    Names("celery.platforms", "EX_FAILURE", "It is the exit code of a forced exit."),
    Names(
        "celery.worker.components:Pool",
        "max_concurrency",
        "It limits the pool with `--autoscale`, and is None without.",
    ),
    Names(
        "celery.worker.consumer.consumer:Consumer",
        "*on_decode_error *on_unknown_message",
        "Celery acknowledges what it cannot decode, and logs the content of both kinds.",
    ),
    Names(
        "celery.worker.consumer.consumer:Consumer", "*on_ready", "An embedded worker sends no signal when it is ready."
    ),
    Names(
        "celery.worker.consumer.consumer:Consumer",
        "blueprint connection connection_errors controller pool steps",
        "The watchdog, the signal handlers and the events need these parts of a worker.",
    ),
    Names("celery.worker.consumer.events:Events", "event_dispatcher", "It sends the events of tasks."),
    Names("celery.worker.consumer.tasks:Tasks", "task_consumer", "The worker receives by its channel."),
    Names("celery.worker.control", "Panel nok ok", "Remote commands are registered and answered by them."),
    Names("celery.worker.control:Panel", "*data", "Commands that a pool cannot carry out get a clear answer."),
    Names("celery.worker.request", "create_request_cls", "It derives a class for each task, which must stay guarded."),
    Names(
        "celery.worker.request:Request",
        "*cancel *eta *execute_using_pool *info *on_accepted *on_failure *reject *revoked",
        "The transport learns when work begins and why a message is rejected, also if an error escapes.",
    ),
    Names(
        "celery.worker.request:Request", "id kwargs message name task time_limits", "They say what the request is for."
    ),
    Names(
        "celery.worker.state",
        "active_requests reserved_requests should_stop should_terminate task_ready",
        "They tell what runs, what waits, and whether the worker was told to stop.",
    ),
    Names("celery.worker.worker:WorkController", "blueprint", "It tells whether the worker has begun to stop."),
    # billiard
    Names("billiard", "active_children", "A forced exit kills prefork's processes first."),
    Names("billiard.einfo:ExceptionWithTraceback", "exc", "It is the error as the task raised it."),
    Names("billiard.pool:ApplyResult", "_accepted _write_to", "They tell what a process was given and has not begun."),
    # gevent
    Names("gevent.hub:Hub", "*NOT_ERROR", "Gevent prints the traceback of every task that was given back."),
    # kombu
    Names(
        "kombu.asynchronous.hub:Hub",
        "add_reader call_repeatedly",
        "The worker's loop learns what the pollers have received.",
    ),
    Names(
        "kombu.compression",
        "bz2 brotli encoders get_decoder lzma zlib zstd",
        "We decompress within a bound; kombu does so without.",
    ),
    Names("kombu.message:Message", "reject_log_error", "It rejects what the worker cannot read."),
    Names("kombu.pidbox:Mailbox", "*oid", "Every call would create a queue for its replies (celery/celery#8348)."),
    Names("kombu.pidbox:Mailbox", "reply_exchange_fmt", "Replies are recognized by their exchange."),
    Names(
        "kombu.transport.SQS:Channel",
        "*QoS *basic_ack *basic_cancel *basic_consume *basic_reject *_delete *_get *_handle_sts_session "
        "*_new_boto_client *_new_queue *_put *_put_fanout *_resolve_queue_url *_update_queue_cache",
        "We receive, settle and send in batches, by one client a process and with fewer requests.",
    ),
    Names(
        "kombu.transport.SQS:Channel",
        "_decode_python_message_body _envelope_payload _noack_queues _prepare_json_payload _queue_cache "
        "_resolve_delay_seconds canonical_queue_name conninfo endpoint_url predefined_queues region sqs "
        "sqs_base64_encoding sts_expiration transport_options visibility_timeout wait_time_seconds",
        "They are kombu's options, its queue names and URLs, and its formats of a body.",
    ),
    Names("kombu.transport.SQS:QoS", "is_backoff_task reject", "They apply kombu's backoff policy."),
    Names(
        "kombu.transport.SQS:Transport",
        "*Channel *connection_errors",
        "It has our channel, and waits until a policy is fixed.",
    ),
    Names(
        "kombu.transport.virtual.base:Channel",
        "*Message *_next_delivery_tag *after_reply_message_received *basic_get *basic_publish *basic_recover "
        "*queue_bind *queue_declare *queue_delete *queue_purge *supports_fanout",
        "Messages keep the reason of a rejection; events, commands and replies have their own queues and threads.",
    ),
    Names(
        "kombu.transport.virtual.base:Channel",
        "_inplace_augment_message _tag_to_queue closed connection decode_body qos state",
        "They tell what it consumes and how a message looks in memory.",
    ),
    Names("kombu.transport.virtual.base:BrokerState", "exchanges", "It tells which exchanges are fanouts."),
    Names(
        "kombu.transport.virtual.base:QoS",
        "*ack *prefetch_count *restore_unacked_once _delivered _dirty get",
        "We count what the consumer holds and may still receive.",
    ),
    Names("kombu.transport.virtual.base", "queue_declare_ok_t", "A declaration returns it."),
    Names(
        "kombu.transport.virtual.base:Transport",
        "*close_connection *drain_events *establish_connection _avail_channels _deliver implements",
        "Our threads feed the consumer, and connecting checks that SQS answers.",
    ),
    Names("kombu.transport.base:Transport", "*register_with_event_loop", "Our threads feed a worker's event loop."),
    # Flower
    Names("flower.api:BaseApiHandler", "*write_error", "Flower's API does not ask a browser for the password."),
    Names("flower.app", "rewrite_handler", "Our pages are below Flower's prefix, too."),
    Names(
        "flower.app:Flower",
        "*start_http_server options",
        "Flower listens on all interfaces without a password.",
    ),
    Names("flower.command", "*Flower", "`celery flower` starts this class."),
    Names("flower.events", "*EventReceiver", "Flower's events come by this class."),
    Names("flower.utils.search", "*_kwargs_pairs", "Deeply nested arguments break the search for tasks."),
    Names("flower.views", "*hmac", "A password that is not in ASCII leads to an error 500."),
    Names("flower.views:BaseHandler", "*get_broker capp get_active_queue_names", "Flower has no broker for SQS."),
    Names("flower.views.broker:BrokerView", "*get", "The Broker tab shows SQS's figures."),
    Names("tornado.template:Loader", "*_create_template root", "Flower's own pages get our tabs and hints."),
    Names("tornado.web:OutputTransform", "*transform_first_chunk", "Every answer gets our headers."),
)
