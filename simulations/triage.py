"""Phrases of the synthetic triage notes: written for this project, taken from no patient and no corpus.

``STRONG`` holds findings that point to one department, ``WEAK`` findings that several share, and
``DENIED`` what a note may rule out: the words of a department without its complaint.
"""

from __future__ import annotations

from typing import Final


def _lines(block: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in block.strip().splitlines())


STRONG: Final[dict[str, tuple[str, ...]]] = {
    "cardiology": _lines("""
        crushing pressure behind the breastbone
        tightness across the chest spreading to the left arm
        the heart racing for no reason when sitting still
        skipped beats followed by a heavy thump
        a fluttering feeling under the ribs
        both ankles swollen by the evening
        needing three pillows at night to breathe
        waking up gasping and having to sit upright
        blood pressure of 190 over 110 at the pharmacy
        a blackout while climbing the stairs
        an irregular pulse picked up by a smart watch
        an ache in the jaw that comes on with brisk walking
        cold sweat with an ache between the shoulder blades
        calf cramp on walking that eases on standing still
        a new murmur heard at a work medical
        palpitations after stopping bisoprolol
        the defibrillator firing twice overnight
        the same pain as before the stent last year
        rapid weight gain with puffy legs
        blue lips on exertion since childhood surgery
        furosemide no longer shifting the fluid
        a slow pulse and an overdue pacemaker check
        angina spray used four times this week
        atrial fibrillation found on a routine tracing
        a raised troponin from the walk-in clinic
        an ECG with ST depression in the lateral leads
        known heart failure with a rising NT-proBNP
        sudden tearing pain through to the back
        a pulse of 38 with light-headedness
        fainting in sport and a brother who died suddenly
        an echocardiogram showing a leaky mitral valve
        a warfarin query after valve surgery
    """),
    "respiratory": _lines("""
        a hacking cough bringing up green phlegm
        wheezing after running for the bus
        rusty sputum with sharp pain on breathing in
        a blue inhaler that no longer helps
        coughing fits at night that end in retching
        blood-streaked phlegm on two mornings
        breathlessness from the bed to the window
        a whistling chest every time the cat comes near
        oxygen saturation of 88 percent on room air
        a barking cough with noisy breathing in
        a COPD flare with thicker sputum
        the home nebuliser needed every two hours
        fluid around the lung drained last month and coming back
        crackles at both bases on listening
        loud snoring with pauses noticed by a partner
        a leaking CPAP mask and sleepiness at the wheel
        a cough after sharing a room with somebody with tuberculosis
        peak flow down to half of the usual value
        stridor when climbing one flight
        a shadow on the chest film
        thirty pack-years of smoking and a changed voice
        pneumonia treated twice this winter
        sudden one-sided pain after an earlier collapsed lung
        sarcoidosis with a worsening cough
        tightness at work in a dusty bakery
        an asthma attack that needed prednisolone
        a choking spell on a peanut and coughing ever since
        breathing fast and using the neck muscles
        spirometry showing a fixed obstruction
        home oxygen turned up to three litres
        clubbed fingers and dry crackles
        bronchiectasis with a change in sputum colour
    """),
    "neurology": _lines("""
        sudden weakness of one side of the face and arm
        a blinding headache like a thunderclap
        pins and needles climbing from the feet to the knees
        a shaking fit with a bitten tongue
        double vision on looking to the left
        slurred speech noticed at breakfast
        a tremor of one hand at rest
        zigzag lights before a one-sided headache
        numbness in a band around the trunk
        staring spells with lip smacking
        dragging the right foot when tired
        forgetting the way home from the shop
        losing words in mid-sentence
        a drooping eyelid that is worse by evening
        electric shocks down the spine on bending the neck
        sight lost in one eye like a curtain coming down
        the room spinning on turning over in bed
        small shuffling steps and falls on turning
        stabbing pain in the cheek when brushing the teeth
        clumsy fingers on buttons and muscle twitching
        a wrist drop after sleeping on the arm
        a migraine every week despite propranolol
        seizures in clusters since missing levetiracetam
        a multiple sclerosis relapse with heavy legs
        carpal tunnel numbness that wakes at night
        a stroke last spring and new confusion
        no feeling in the saddle area and trouble passing urine
        a stiff neck with dislike of light
        an urge to move the legs every evening
        jerks of the arms on waking
        handwriting getting smaller and smaller
        a smell of burning rubber before going blank
    """),
    "gastro": _lines("""
        burning behind the breastbone after meals
        black tarry stools
        vomit that looks like coffee grounds
        cramping belly pain relieved by opening the bowels
        watery diarrhoea eight times a day
        bright red blood on the toilet paper
        food sticking on the way down
        yellow eyes and dark urine
        pain under the right ribs after fried food
        a swollen belly filled with fluid
        no bowel movement for nine days
        a change of bowel habit with narrow stools
        severe upper belly pain boring through to the back
        bloating after bread and pasta
        a sour taste on lying down
        a lump in the groin that pops out on coughing
        retching each morning after heavy drinking
        mucus and blood in the motions
        itching all over with pale stools
        pain that moved from the navel to the right lower side
        hiccups that will not stop
        an ulcerative colitis flare on mesalazine
        a leaking fistula in Crohn's disease
        a positive stool test in screening
        iron deficiency with hidden blood in the stool
        gallstones on ultrasound with shivering
        cirrhosis with a tense abdomen
        liver enzymes at six times the upper limit
        reflux in spite of omeprazole at full dose
        strongly positive coeliac antibodies
        painful piles that bleed
        a stomach bug from a cruise that will not settle
    """),
    "endocrine": _lines("""
        passing water every hour and a raging thirst
        a blood sugar of 24 on the finger-prick
        shaking and sweating that stop after a sugary drink
        weight falling off in spite of a huge appetite
        feeling cold all the time with dry skin
        a smooth swelling at the front of the neck
        bulging eyes with a gritty feeling
        a round face, purple stretch marks and easy bruising
        darkening skin in the creases of the palms
        salt craving with faintness on standing
        milk from the breasts and a raised prolactin
        ring and shoe size going up
        hot flushes with a fine tremor
        ketones three plus in the urine
        an insulin pump alarm with climbing readings
        a hypo overnight that needed glucagon
        an HbA1c of 84 in spite of metformin
        a TSH too low to measure
        a calcium of 2.9 and kidney stones in the past
        a sodium of 121 on routine blood tests
        coarse new hair on the face with high androgens
        an adrenal mass found by chance on a scan
        thyroid nodules that grew on a repeat scan
        low hormone levels with loss of body hair
        steroid tablets stopped suddenly and feeling faint
        a levothyroxine dose due for review
        a broken wrist from a small fall and low vitamin D
        numb lips with low calcium after thyroid surgery
        a foot ulcer in long-standing diabetes
        fasting sugars above target on two tablets
        attacks of headache, sweating and pallor
        narrowed side vision with a pituitary lesion
    """),
    "mental-health": _lines("""
        low mood most of the day with no joy in anything
        hearing a voice that comments on every action
        lying awake from three with dread
        panic on the underground with a fear of dying
        washing the hands until they crack
        spending sprees and no need for sleep
        cutting the forearm when upset
        a belief that the neighbours are filming the flat
        refusing food for fear of getting fat
        nightmares and flashbacks after an assault
        not leaving the house for fear of crowds
        crying every day since the redundancy
        thoughts of ending it all
        checking the cooker twenty times before leaving
        a bottle of spirits a day to cope
        rows at home and outbursts of rage
        burnout and no concentration at work
        a lithium level that is due
        more agitation since starting sertraline
        talking fast again after a manic episode last year
        an overdue clozapine blood test
        bingeing followed by making oneself sick
        grief that has not eased two years on
        messages from the television
        pulling out hair without noticing
        gambling away the rent
        unopened post piling up and self-neglect
        feeling cut off as if behind glass
        cannabis every day and growing suspicion
        stomach ache on every work day and refusing to go
        worry about everything from morning to night
        deadline stress with chest tightness and tingling fingers
    """),
}

DEPARTMENTS: Final[tuple[str, ...]] = tuple(STRONG)

WEAK: Final[dict[str, tuple[str, ...]]] = {
    "chest pain": ("cardiology", "respiratory", "gastro", "mental-health"),
    "shortness of breath": ("cardiology", "respiratory", "mental-health"),
    "fatigue": DEPARTMENTS,
    "dizziness": ("cardiology", "neurology", "endocrine", "mental-health"),
    "nausea": ("cardiology", "neurology", "gastro", "endocrine"),
    "headache": ("neurology", "endocrine", "mental-health"),
    "weight loss": ("respiratory", "gastro", "endocrine", "mental-health"),
    "weight gain": ("cardiology", "endocrine", "mental-health"),
    "palpitations": ("cardiology", "endocrine", "mental-health"),
    "poor sleep": ("respiratory", "neurology", "mental-health"),
    "sweating": ("cardiology", "respiratory", "endocrine", "mental-health"),
    "loss of appetite": ("respiratory", "gastro", "mental-health"),
    "tingling in the hands": ("neurology", "endocrine", "mental-health"),
    "feeling faint": ("cardiology", "neurology", "endocrine"),
    "swollen legs": ("cardiology", "gastro", "endocrine"),
    "tremor": ("neurology", "endocrine", "mental-health"),
    "blurred vision": ("neurology", "endocrine"),
    "general weakness": ("cardiology", "neurology", "endocrine"),
    "upper belly pain": ("cardiology", "gastro"),
    "vomiting": ("neurology", "gastro", "endocrine"),
    "a dry cough": ("cardiology", "respiratory", "gastro"),
    "anxiety": ("cardiology", "respiratory", "endocrine", "mental-health"),
    "forgetfulness": ("neurology", "endocrine", "mental-health"),
    "constipation": ("gastro", "endocrine", "mental-health"),
    "leg cramps": ("cardiology", "neurology", "endocrine"),
    "a fall at home": ("cardiology", "neurology", "endocrine"),
    "hoarseness": ("respiratory", "gastro", "endocrine"),
    "feeling feverish": ("respiratory", "gastro"),
    "muscle aches": ("respiratory", "neurology", "endocrine"),
    "being irritable": ("neurology", "endocrine", "mental-health"),
}

DENIED: Final[tuple[str, ...]] = _lines("""
    fever
    chest pain
    shortness of breath
    vomiting
    diarrhoea
    headache
    loss of consciousness
    weight loss
    blood in the stool
    cough
    wheezing
    palpitations
    thoughts of self-harm
    hallucinations
    weakness on one side
    numbness
    excessive thirst
    leg swelling
    belly pain
    blurred vision
    seizures
    low mood
    phlegm
    recent travel
""")

COURSE: Final[tuple[str, ...]] = _lines("""
    getting worse
    coming and going
    no better with rest
    worse at night
    much the same
    easing with paracetamol
    worse after meals
    worse in the mornings
    worse since yesterday
    off and on
""")
