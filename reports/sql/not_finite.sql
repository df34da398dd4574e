SELECT
    reason,
    count(*) AS failed_count,
    (SELECT count(*) FROM samples WHERE run_id = $run_id) + (SELECT count(*) FROM failures WHERE run_id = $run_id) AS image_count
FROM failures
WHERE run_id = $run_id AND reason IN ('the model''s scores are not finite', 'the maps are not finite')
GROUP BY reason
ORDER BY failed_count DESC, reason
