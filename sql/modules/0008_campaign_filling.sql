-- What fills a template beside the variables of its body: headers, buttons, named variables.
-- Runs before the code that needs it.

ALTER TABLE pgsync_modules.campaign
    ADD COLUMN slots text[],
    ADD COLUMN constants jsonb NOT NULL DEFAULT '{}';

COMMENT ON COLUMN pgsync_modules.campaign.slots IS 'The template''s slots that the variables fill, one for each (body.first_name, header, button.0); null: those of the body, in order.';
COMMENT ON COLUMN pgsync_modules.campaign.constants IS 'What fills slots where a recipient has nothing of its own, for example the link of the header''s picture.';
COMMENT ON COLUMN pgsync_modules.campaign_recipient.parameters IS 'What fills the template: a list for the variables of its body in order, or an object by slot.';
