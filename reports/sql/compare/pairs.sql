WITH before AS (
    SELECT *, row_number() OVER (PARTITION BY content_hash ORDER BY sample_index) AS copy FROM reference.samples
),
after AS (
    SELECT *, row_number() OVER (PARTITION BY content_hash ORDER BY sample_index) AS copy FROM samples
)
SELECT
    $columns
FROM before JOIN after ON before.content_hash = after.content_hash AND before.copy = after.copy
ORDER BY after.sample_index
