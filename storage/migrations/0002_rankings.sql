-- Rankings of up to five responses, and marked spans. A ranking is one judgment; everything that counts or exports reads pairs.

ALTER TABLE tasks ADD COLUMN more_response_ids VARCHAR[] DEFAULT [];     -- beside response_1 and response_2
ALTER TABLE leases ADD COLUMN more_response_ids VARCHAR[] DEFAULT [];    -- in the order shown, after a and b
ALTER TABLE judgments ADD COLUMN more_response_ids VARCHAR[] DEFAULT []; -- in the order shown, after a and b
ALTER TABLE judgments ADD COLUMN ranking VARCHAR;                        -- JSON: lists of response ids, best first; NULL of a pair
ALTER TABLE judgments ADD COLUMN spans VARCHAR DEFAULT '[]';             -- JSON: side, start, end, note

CREATE OR REPLACE VIEW standing AS
SELECT * FROM judgments
WHERE id NOT IN (SELECT subject FROM events WHERE kind = 'judgment.withdrawn')
  AND id NOT IN (SELECT supersedes FROM judgments WHERE supersedes IS NOT NULL);

CREATE OR REPLACE VIEW task_status AS
WITH made AS (SELECT task_id AS id, count(*) AS num_made FROM standing WHERE verdict <> 'skip' GROUP BY task_id)
SELECT tasks.*,
       coalesce(made.num_made, 0) AS num_made,
       tasks.id IN (SELECT subject FROM events WHERE kind = 'task.closed') AS closed
FROM tasks LEFT JOIN made USING (id);

-- Every judgment as pairs: a ranking of K is K (K - 1) / 2 rows, each with an id of its own and ranking_id, the judgment's.
-- What was said besides (rationale, reasons, edit) is told once, with the first pair. A skip stays one row.
CREATE VIEW all_pairs AS
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
SELECT id, CAST(NULL AS VARCHAR) AS ranking_id, seq, task_id, annotator_id, prompt_id, response_a_id, response_b_id,
       verdict, strength, aspects, rationale, reasons, edited_text, spans, shown_at, submitted_at, supersedes
FROM judgments WHERE len(more_response_ids) = 0 OR verdict = 'skip'
UNION ALL
SELECT id || '-' || i || '-' || j, id, seq, task_id, annotator_id, prompt_id, shown[i], shown[j],
       CASE WHEN verdict = 'both_bad' THEN verdict WHEN place_i < place_j THEN 'a' WHEN place_i > place_j THEN 'b' ELSE 'tie' END,
       NULL, '{}', CASE WHEN j = 2 THEN rationale END, CASE WHEN j = 2 THEN reasons ELSE [] END,
       CASE WHEN j = 2 THEN edited_text END, '[]', shown_at, submitted_at, supersedes
FROM placed;

-- What counts: pairs of judgments that stand, without those on training pairs, whose answer was known before.
CREATE VIEW judged_pairs AS
SELECT all_pairs.* FROM all_pairs JOIN tasks ON tasks.id = all_pairs.task_id
WHERE tasks.purpose <> 'gold' AND coalesce(ranking_id, all_pairs.id) IN (SELECT id FROM standing);

-- Every judged pair with all that exports need; context_a/b are turns between the prompt and an imported response.
CREATE OR REPLACE VIEW all_judgments AS
SELECT j.seq, j.id AS judgment_id, j.ranking_id, j.task_id,
       j.annotator_id, annotators.handle AS annotator, annotators.kind AS annotator_kind,
       j.prompt_id, prompts.messages, prompts.source, prompts.split, prompts.tags,
       j.response_a_id, j.response_b_id, a.text AS response_a, b.text AS response_b,
       a.context AS context_a, b.context AS context_b,
       a.policy_id AS policy_a_id, b.policy_id AS policy_b_id, a.model AS model_a, b.model AS model_b,
       j.verdict, j.strength, j.aspects, j.rationale, j.reasons, j.edited_text, j.spans,
       tasks.purpose, tasks.selection_rule, tasks.selection_score, tasks.selection_prob,
       j.shown_at, j.submitted_at, j.supersedes,
       coalesce(j.ranking_id, j.id) IN (SELECT id FROM standing) AS standing
FROM all_pairs j
JOIN tasks ON tasks.id = j.task_id
JOIN prompts ON prompts.id = j.prompt_id
JOIN written a ON a.id = j.response_a_id
JOIN written b ON b.id = j.response_b_id
JOIN annotators ON annotators.id = j.annotator_id;

CREATE OR REPLACE VIEW standing_judgments AS
SELECT * EXCLUDE (standing) FROM all_judgments WHERE standing AND purpose <> 'gold';
