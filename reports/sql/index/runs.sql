SELECT
    runs.run_id,
    name,
    started_at,
    processed_count,
    failed_count,
    correct_frac,
    agreement_frac,
    sparseness_mean,
    class_cosine_mean,
    coalesce(judged, []) AS gates
FROM runs
LEFT JOIN (SELECT run_id, list([severity, outcome] ORDER BY gate_name) AS judged FROM gates GROUP BY run_id) USING (run_id)
ORDER BY runs.run_id
