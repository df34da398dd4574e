SELECT
    (SELECT count(*) FROM failures WHERE run_id = $run_id) AS failed_count,
    (SELECT count(*) FROM samples WHERE run_id = $run_id AND label IS NULL) AS unlabelled_count,
    (SELECT count(*) FROM samples WHERE run_id = $run_id AND dominant_class IS NULL) AS no_dominant_count,
    (SELECT count(*) FROM class_stats WHERE run_id = $run_id AND sample_count = 0) AS empty_class_count,
    (SELECT count(*) FROM gates WHERE run_id = $run_id AND outcome IN ('error', 'not evaluated')) AS open_gate_count
