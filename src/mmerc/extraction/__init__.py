"""From media files to feature tables: units of work, side by side, kept once done."""
