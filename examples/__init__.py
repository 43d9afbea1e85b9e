"""Small applications that use wd_di as their own code would."""
