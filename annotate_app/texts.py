"""Sentences shown to people on the labelling and sign-in pages, in one place."""

ROLE_NAMES = {"user": "User", "assistant": "Assistant", "system": "Instructions to the assistant"}

GUIDELINES = """
### What to look for

Read the prompt, then both responses. Choose the one **you would rather receive** if you had asked.

1. **Does it answer?** A response that answers the question beats one that talks around it.
2. **Is it right?** A false or harmful statement weighs more than style.
3. **Is it clear?** Prefer the one that is easier to follow and no longer than it needs to be.

### Which verdict

- **A** or **B**: one is better, even if only slightly. Say how much if you can.
- **Tie**: equally good.
- **Both bad**: you would want neither.
- **Skip**: you cannot judge this pair. It goes to somebody else.

### Good to know

Length, lists and confident tone are not quality by themselves.

You never see which model wrote what, and sides are shuffled. A verdict can be undone.
"""

SIGN_IN_HELP = "You need a personal sign-in link. Ask the researcher who invited you for one; each link works once."
LINK_USED = "This link was used before or has expired. Ask for a new one: links work once and last a week."
SIGN_IN_CONFIRM = "This link signs this browser in and then stops working. You stay signed in for a month."
SIGN_IN_OPERATOR = (
    "<p class='small'>You run this Nashloop? <code>nashloop users invite researcher</code> prints a link for yourself, "
    "<code>nashloop users add NAME</code> one for somebody new.</p>"
)
RESEARCHERS_ONLY = "The console is where researchers run rounds. Your sign-in is for labelling."
