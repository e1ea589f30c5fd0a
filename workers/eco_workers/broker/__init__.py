"""The broker: what exists on it, taking deliveries from it, publishing to it.

`topology` declares queues and exchanges from one source; `frames` cuts deliveries out of the byte stream, `properties`
reads what their headers say and `channel` puts them into an inbox;
`consumer` hands them over in batches and acks a whole batch once it is durable; `publisher` sends with confirms.
Nothing here knows a journal or a task: deliveries go in and out as plain values. This is the only folder that imports
a client of the broker. aiormq is used directly, the layer under aio-pika: one object per message less.
"""
