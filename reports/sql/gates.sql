SELECT gate_name, outcome, severity, value, reference_value, reference_run_id, least, most, max_drop, max_rise, message, sql, samples_sql
FROM gates
WHERE run_id = $run_id
ORDER BY
    severity = 'warn' OR outcome = 'passed',
    list_position(['failed', 'error', 'not evaluated', 'warned', 'passed'], outcome),
    gate_name
