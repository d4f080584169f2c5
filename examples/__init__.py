"""Django apps that use mailapp as any user's app would."""
