from importlib import import_module

from django.db import migrations, models

first = import_module("mailapp.migrations.0009_store_function")
before = import_module("mailapp.migrations.0010_suppression")

# What `Message.objects.store` writes, as before with one column more.
CREATE = """
CREATE FUNCTION mailapp_store(
    stamp timestamptz,
    senders text[], sizes integer[], protocols text[], peers text[], helos text[], tlss text[],
    subjects text[], authors text[], message_ids text[], causes bigint[],
    verps boolean[], evens boolean[], lists text[],
    contents bytea[], files text[],
    mails integer[], queues text[], persons text[], recipients text[],
    channels text[]
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    keys bigint[] := ARRAY(
        SELECT nextval(pg_get_serial_sequence('mailapp_message', 'id'))
        FROM generate_series(1, cardinality(senders))
    );
BEGIN
    INSERT INTO mailapp_message (
        id, created_at, sender, size, protocol, peer, helo, tls,
        subject, author, message_id, cause_id, verp, even_suppressed, list_address
    )
    SELECT
        id, stamp, sender, size, protocol, peer, helo, tls,
        subject, author, message_id, cause_id, verp, even_suppressed, list_address
    FROM unnest(
        keys, senders, sizes, protocols, peers, helos, tlss,
        subjects, authors, message_ids, causes, verps, evens, lists
    ) AS mail (
        id, sender, size, protocol, peer, helo, tls,
        subject, author, message_id, cause_id, verp, even_suppressed, list_address
    );
    INSERT INTO mailapp_rawmessage (message_id, content, file)
    SELECT * FROM unnest(keys, contents, files);
    INSERT INTO mailapp_delivery (
        message_id, queue_id, person, recipient, created_at, due_at,
        status, attempts, attempts_before, reply
    )
    SELECT keys[mail], queue, person, recipient, stamp, stamp, 'queued', 0, 0, ''
    FROM unnest(mails, queues, persons, recipients) AS delivery (mail, queue, person, recipient);
    PERFORM pg_notify(channel, '') FROM unnest(channels) AS channel;
    RETURN keys;
END
$$
"""


class Migration(migrations.Migration):

    dependencies = [
        ('mailapp', '0010_suppression'),
    ]

    operations = [
        migrations.AddField(
            model_name='message',
            name='list_address',
            field=models.CharField(blank=True, help_text='Each copy has a link by which to leave this list.', max_length=320, default=''),
            preserve_default=False,
        ),
        migrations.RunPython(
            first.on_postgresql(f"{first.DROP}; {CREATE}"),
            first.on_postgresql(f"{first.DROP}; {before.CREATE}"),
        ),
    ]
