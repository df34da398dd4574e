WITH before AS (
    SELECT *, row_number() OVER (PARTITION BY content_hash ORDER BY sample_index) AS copy FROM reference.evidence_verdicts
),
after AS (
    SELECT *, row_number() OVER (PARTITION BY content_hash ORDER BY sample_index) AS copy FROM evidence_verdicts
)
