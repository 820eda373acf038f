-- The views of 0002 with the same rows, at the cost of reading judgments once: rankings are few, so their pairs are apart.

-- Pairs of rankings: K (K - 1) / 2 rows each, with an id of its own and ranking_id, the judgment's. What was said besides
-- (rationale, reasons, edit) is told once, with the first pair. A skipped ranking is not among them.
CREATE VIEW ranking_pairs AS
WITH ranked AS (
    SELECT *, [response_a_id, response_b_id] || more_response_ids AS shown,
           CAST(CAST(ranking AS JSON) AS VARCHAR[][]) AS groups
    FROM judgments WHERE len(more_response_ids) > 0 AND verdict <> 'skip'),
placed AS (
    SELECT ranked.*, i, j,
           list_position([list_contains(g, shown[i]) FOR g IN groups], true) AS place_i,
           list_position([list_contains(g, shown[j]) FOR g IN groups], true) AS place_j
    FROM ranked, range(1, 6) AS firsts(i), range(1, 6) AS seconds(j)
    WHERE i < j AND j <= len(shown))
SELECT id || '-' || i || '-' || j AS id, id AS ranking_id, seq, task_id, annotator_id, prompt_id,
       shown[i] AS response_a_id, shown[j] AS response_b_id,
       CASE WHEN verdict = 'both_bad' THEN verdict WHEN place_i < place_j THEN 'a' WHEN place_i > place_j THEN 'b' ELSE 'tie' END
           AS verdict,
       CAST(NULL AS INTEGER) AS strength, '{}' AS aspects, CASE WHEN j = 2 THEN rationale END AS rationale,
       CASE WHEN j = 2 THEN reasons ELSE [] END AS reasons, CASE WHEN j = 2 THEN edited_text END AS edited_text, '[]' AS spans,
       shown_at, submitted_at, supersedes
FROM placed;

CREATE OR REPLACE VIEW all_pairs AS
SELECT id, CAST(NULL AS VARCHAR) AS ranking_id, seq, task_id, annotator_id, prompt_id, response_a_id, response_b_id,
       verdict, strength, aspects, rationale, reasons, edited_text, spans, shown_at, submitted_at, supersedes
FROM judgments WHERE len(more_response_ids) = 0 OR verdict = 'skip'
UNION ALL SELECT * FROM ranking_pairs;

CREATE OR REPLACE VIEW judged_pairs AS
SELECT id, CAST(NULL AS VARCHAR) AS ranking_id, seq, task_id, annotator_id, prompt_id, response_a_id, response_b_id,
       verdict, strength, aspects, rationale, reasons, edited_text, spans, shown_at, submitted_at, supersedes
FROM standing
WHERE (len(more_response_ids) = 0 OR verdict = 'skip') AND task_id NOT IN (SELECT id FROM tasks WHERE purpose = 'gold')
UNION ALL
SELECT * FROM ranking_pairs
WHERE ranking_id IN (SELECT id FROM standing) AND task_id NOT IN (SELECT id FROM tasks WHERE purpose = 'gold');
