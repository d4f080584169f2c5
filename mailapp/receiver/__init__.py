"""Takes mail in over SMTP. It answers 250 when the mail is stored, never before."""
