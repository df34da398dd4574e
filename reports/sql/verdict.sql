SELECT
    count(*) AS processed_count,
    count(label) AS labelled_count,
    count(*) FILTER (is_correct) AS correct_count,
    count(*) FILTER (agrees) AS agreement_count,
    count(*) FILTER (is_correct AND is_for_another_class) AS other_evidence_count,
    count(*) FILTER (dominant_class IS NULL) AS no_dominant_count,
    (SELECT count(*) FROM failures WHERE run_id = $run_id) AS failed_count,
    (
        SELECT count(*) FROM failures WHERE run_id = $run_id AND reason = 'the model''s scores are not finite'
    ) AS scores_not_finite_count,
    (SELECT count(*) FROM failures WHERE run_id = $run_id AND reason = 'the maps are not finite') AS maps_not_finite_count
FROM evidence_verdicts
WHERE run_id = $run_id
